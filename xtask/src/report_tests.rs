use super::*;
use crate::disk::Kind;

const HASH: &str = "00ff";
/// Its finding takes two CPUs.
const RACE: &str = "C3.race";

/// What the story on the default machine must have tried.
fn expected(cpus: u32) -> Vec<&'static str> {
    expected_of_the_story(&Machine::default().cpu, cpus, false)
}

fn disk() -> Disk {
    Disk {
        path: "disk.img".into(),
        kind: Kind::Fat,
        size: 512,
        files: vec![("README.TXT".into(), 1)],
        hash_name: "README.TXT".into(),
        sha256: HASH.into(),
    }
}

/// A console on which everything holds.
fn good_lines() -> Vec<String> {
    let mut lines: Vec<String> = ["bounce", "shared", "memory", "iommu"]
        .iter()
        .flat_map(|dma| {
            [
                format!("@guest sha256 file=README.TXT hex={HASH} dma={dma}"),
                "@guest result=pass".to_owned(),
            ]
        })
        .collect();
    for id in expected(2) {
        lines.push(format!("@attack id={id} what=\"try\" outcome=refused detail=\"abort\""));
    }
    lines.push("@host result=pass".to_owned());
    lines
}

fn judge_with(lines: &[String], change: impl FnOnce(&mut Facts<'_>)) -> Report {
    let mut transcript = Transcript::default();
    lines.iter().for_each(|line| transcript.push(line));
    let (machine, disk) = (Machine::default(), disk());
    let mut facts = Facts {
        machine: &machine,
        disk: &disk,
        end: End::PoweredOff,
        orderly: true,
        write_seen: true,
        sha256_written: HASH.into(),
        seconds: 1.0,
    };
    change(&mut facts);
    Report::judge(&facts, &transcript)
}

fn judge(lines: &[String]) -> Report {
    judge_with(lines, |_| {})
}

fn replaced(from: &str, to: &str) -> Vec<String> {
    good_lines().iter().map(|line| line.replace(from, to)).collect()
}

#[test]
fn a_run_on_which_everything_holds_passes() {
    let report = judge(&good_lines());
    assert!(report.passed(), "{:?}", report.failures);
    assert_eq!(report.result, "pass");
    assert_eq!(report.disk.sha256_guest, report.disk.sha256_host);
}

#[test]
fn each_single_broken_promise_fails_the_run() {
    let wrong_hash = replaced(HASH, "ff00");
    assert!(!judge(&wrong_hash).passed());
    assert!(!judge(&replaced("outcome=refused", "outcome=allowed")).passed());
    assert!(!judge(&replaced("@host result=pass", "@host result=fail")).passed());
    assert!(!judge(&replaced("@guest result=pass", "@guest result=fail")).passed());
    let mut panicked = good_lines();
    panicked.push("bouncer: panicked at el2".into());
    assert!(!judge(&panicked).passed());
}

#[test]
fn what_was_not_seen_counts_as_broken() {
    for missing in ["@host", "@guest result", "@guest sha256", "@attack"] {
        let lines: Vec<String> =
            good_lines().into_iter().filter(|line| !line.starts_with(missing)).collect();
        assert!(!judge(&lines).passed(), "{missing} missing");
    }
    for finding in expected(2) {
        let id = format!("id={finding} ");
        let lines: Vec<String> =
            good_lines().into_iter().filter(|line| !line.contains(&id)).collect();
        assert!(!judge(&lines).passed(), "{finding} never tried");
    }
}

#[test]
fn the_race_is_not_expected_of_a_single_cpu() {
    let mut lines = good_lines();
    lines.retain(|line| !line.contains(&format!("id={RACE} ")));
    assert!(!judge(&lines).passed());
    assert!(!expected(1).contains(&RACE));
    let mut transcript = Transcript::default();
    lines.iter().for_each(|line| transcript.push(line));
    let mut failures = Vec::new();
    let machine = Machine { cpus: 1, ..Machine::default() };
    judge_attacks(&transcript.attacks, &machine, &mut |held, sentence| {
        if !held {
            failures.push(sentence);
        }
    });
    assert_eq!(failures, Vec::<String>::new());
}

#[test]
fn the_later_guests_hash_what_the_first_has_written() {
    let written =
        |lines: &[String]| judge_with(lines, |facts| facts.sha256_written = "beef".into());
    assert!(!written(&good_lines()).passed());
    let mut lines = good_lines();
    for later in lines.iter_mut().filter(|line| line.contains("sha256")).skip(1) {
        *later = later.replace(HASH, "beef");
    }
    assert!(written(&lines).passed());
}

#[test]
fn a_policy_without_its_guest_is_not_enough() {
    for dma in ["bounce", "shared", "memory", "iommu"] {
        let mut lines = good_lines();
        lines.retain(|line| !line.contains(&format!("dma={dma}")));
        assert!(!judge(&lines).passed());
    }
}

#[test]
fn what_xtask_saw_itself_counts_too() {
    let lines = good_lines();
    assert!(!judge_with(&lines, |facts| facts.write_seen = false).passed());
    assert!(!judge_with(&lines, |facts| facts.orderly = false).passed());
    for end in [End::Reset, End::TimedOut, End::Interrupted, End::Died] {
        let report = judge_with(&lines, |facts| facts.end = end);
        assert!(report.failures[0].starts_with("the machine "), "{:?}", report.failures);
    }
}

#[test]
fn the_data_has_the_promised_shape() {
    let mut lines = good_lines();
    lines.push("@counter run=bounce-bar name=exits_wfi value=12".into());
    let json = serde_json::to_value(judge(&lines)).unwrap();
    assert_eq!(json["result"], "pass");
    assert_eq!(json["disk"]["sha256_guest"], HASH);
    assert_eq!(json["disk"]["write_seen"], true);
    assert_eq!(json["attacks"][0]["outcome"], "refused");
    assert_eq!(json["counters"]["bounce-bar"]["exits_wfi"], 12);
}
