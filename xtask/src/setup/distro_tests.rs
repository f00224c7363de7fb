use super::*;

const BOOKWORM: &str =
    "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n";
const TRIXIE: &str = "ID=debian\nVERSION_ID=\"13\"\n";
const NOBLE: &str = "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n";
const FEDORA: &str = "ID=fedora\nVERSION_ID=42\n";

const DEB822: &str = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\n\
    Suites: bookworm bookworm-updates\nComponents: main\n\n\
    Types: deb\nURIs: http://security.example\nSuites: bookworm-security\n";
const ONE_LINE: &str = "# old style\ndeb [arch=amd64 signed-by=/k.gpg] http://m.example/debian \
    bookworm main contrib\ndeb-src http://m.example/debian bookworm-backports main\n";

fn facts(os_release: &str, apt_sources: &str, privilege: Privilege) -> Facts {
    Facts {
        os_release: os_release.into(),
        apt_sources: apt_sources.into(),
        privilege,
        has_apt: true,
        qemu: None,
    }
}

fn commands(plan: &Plan) -> Vec<String> {
    match plan {
        Plan::Install { commands, .. } => commands.iter().map(|words| words.join(" ")).collect(),
        Plan::Manual { commands, .. } => commands.clone(),
    }
}

#[test]
fn bookworm_gets_backports_from_the_mirror_it_already_uses() {
    for (sources, mirror) in [
        (DEB822, "http://mirror.example/debian"),
        (ONE_LINE, "http://m.example/debian"),
        ("", DEBIAN_MIRROR),
    ] {
        let plan = plan(&facts(BOOKWORM, sources, Privilege::Root));
        let Plan::Install { sources: Some((path, text)), .. } = &plan else {
            panic!("{plan:?}");
        };
        assert_eq!(*path, BACKPORTS_FILE);
        assert!(text.contains(&format!("URIs: {mirror}\nSuites: bookworm-backports\n")), "{text}");
        assert!(text.contains("Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"));
        assert_eq!(
            commands(&plan),
            [
                "apt-get update",
                "apt-get install -y --no-install-recommends -t bookworm-backports qemu-system-arm"
            ]
        );
    }
}

#[test]
fn a_backports_source_that_is_there_is_not_added_twice() {
    let one_line = "deb http://deb.debian.org/debian bookworm-backports main\n";
    let deb822 = "Types: deb\nURIs: http://a\nSuites: bookworm bookworm-backports\n";
    for sources in [one_line, deb822] {
        let plan = plan(&facts(BOOKWORM, sources, Privilege::Sudo));
        assert!(matches!(plan, Plan::Install { sources: None, .. }), "{plan:?}");
    }
}

#[test]
fn a_disabled_or_source_only_backports_entry_does_not_count() {
    let disabled = "Enabled: no\nTypes: deb\nURIs: http://a\nSuites: bookworm-backports\n";
    let source = "Types: deb-src\nURIs: http://a\nSuites: bookworm-backports\n";
    let comment = "# deb http://a bookworm-backports main\n";
    for sources in [disabled, source, comment] {
        let plan = plan(&facts(BOOKWORM, sources, Privilege::Root));
        assert!(matches!(plan, Plan::Install { sources: Some(_), .. }), "{sources}");
    }
}

#[test]
fn trixie_and_noble_need_no_extra_source() {
    for os_release in [TRIXIE, NOBLE] {
        let plan = plan(&facts(os_release, DEB822, Privilege::Root));
        assert!(matches!(plan, Plan::Install { sources: None, .. }));
        let install = "apt-get install -y --no-install-recommends qemu-system-arm";
        assert_eq!(commands(&plan), ["apt-get update", install]);
    }
}

#[test]
fn without_root_the_commands_are_shown_complete() {
    let plan = plan(&facts(BOOKWORM, DEB822, Privilege::None));
    let Plan::Manual { why, commands } = plan else {
        panic!("must not install without the right to");
    };
    assert!(why.contains("root"));
    assert!(commands[0].contains("sudo tee /etc/apt/sources.list.d/bouncer-backports.sources"));
    assert!(commands[0].contains("'Suites: bookworm-backports'"));
    assert_eq!(commands[1], "sudo apt-get update");
    assert!(commands[2].starts_with("sudo apt-get install -y"));
}

#[test]
fn elsewhere_a_person_is_told_what_is_needed() {
    let plan = plan(&facts(FEDORA, "", Privilege::Root));
    assert!(matches!(&plan, Plan::Manual { why, .. } if why.contains("not Debian")));
}

#[test]
fn versions_are_read_from_what_programs_print() {
    let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n";
    assert_eq!(qemu_version(debian), Some((10, 0)));
    assert_eq!(qemu_version("QEMU emulator version 7.2.17"), Some((7, 2)));
    assert_eq!(qemu_version("no such thing"), None);
    assert_eq!(version_in("1.95.0-nightly"), Some((1, 95)));
    assert!((7, 2) < super::super::OLDEST_QEMU && (8, 2) >= super::super::OLDEST_QEMU);
}

#[test]
fn debians_mirror_is_known_on_debian_only() {
    let debian = format!("{BOOKWORM}VERSION_CODENAME=bookworm\n");
    let found = debian_mirror(&debian, DEB822);
    assert_eq!(found.as_deref(), Some("http://mirror.example/debian"));
    assert_eq!(debian_mirror(NOBLE, DEB822), None);
    assert_eq!(debian_mirror(&debian, ""), None);
}

#[test]
fn ordinary_packages_are_installed_or_the_commands_shown() {
    let root = facts(TRIXIE, "", Privilege::Root);
    let plan = |facts: &Facts| plan_packages(facts, &["flex", "bison"], "a parser");
    assert!(matches!(plan(&root), Plan::Install { sources: None, .. }));
    let nobody = facts(NOBLE, "", Privilege::None);
    let Plan::Manual { why, commands } = plan(&nobody) else { panic!("installs without root") };
    assert!(why.contains("a parser is missing"), "{why}");
    assert!(commands[1].starts_with("sudo apt-get install") && commands[1].ends_with("flex bison"));
    let fedora = Facts { has_apt: false, ..facts(FEDORA, "", Privilege::Root) };
    assert!(commands_of_manual(&plan(&fedora))[0].contains("flex, bison"));
}

fn commands_of_manual(plan: &Plan) -> Vec<String> {
    match plan {
        Plan::Manual { .. } => commands(plan),
        Plan::Install { .. } => Vec::new(),
    }
}
