//! The command line: words `name=value`, separated by spaces.

/// The DMA policies of DEVICE_CREATE by name, in the order of their story.
pub const POLICIES: [&str; 4] = ["bounce-bar", "shared-pages", "device-memory", "shadow-iommu"];

/// What a run should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options<'a> {
    /// `scenario=`: `story` runs all acts; `leave-off` and `leave-reset` end
    /// the machine while a guest holds secrets, with `-out` while it is on
    /// another CPU, and `leave-break-out` waits for somebody outside to break
    /// bouncer; `lies` runs guests whose disk lies to them; `registers` looks
    /// for leaks in all system registers; `tables` is the act with I/O tables;
    /// `dma` shows or measures one DMA system (`mode=`, `part=`, not read
    /// here); `fuzz` calls bouncer at random
    /// (`seed=`, `calls=`), and is
    /// not read here; any other word is the guest's scenario, run alone.
    pub scenario: &'a str,
    /// `policy=`: one of [`POLICIES`], or `all`. With which the guest with the
    /// disk is run.
    pub policy: &'a str,
    /// `vcpus=`: of the guest that runs the disk story, 1 to 8.
    pub vcpus: u64,
    /// `attacks=`: `all`, `none`, or rows separated by commas.
    pub attacks: &'a str,
    /// `hash=`, passed to the guest.
    pub hash: Option<&'a str>,
    /// `note=`, passed to the guest.
    pub note: Option<&'a str>,
    /// `write=`, passed to the guest.
    pub write: Option<&'a str>,
}

impl<'a> Options<'a> {
    /// Reads a command line; words it does not know are other people's.
    ///
    /// # Errors
    /// The word whose value makes no sense.
    pub fn parse(line: &'a str) -> Result<Self, &'a str> {
        let mut options = Options {
            scenario: "story",
            policy: "all",
            vcpus: 2,
            attacks: "all",
            hash: None,
            note: None,
            write: None,
        };
        for word in line.split_whitespace() {
            let Some((name, value)) = word.split_once('=') else { continue };
            match name {
                "scenario" => options.scenario = value,
                "policy" => {
                    options.policy = value;
                    if value != "all" && !POLICIES.contains(&value) {
                        return Err(word);
                    }
                }
                "vcpus" => {
                    let vcpus = value.parse().map_err(|_| word)?;
                    options.vcpus = vcpus;
                    if !(1..=8).contains(&vcpus) {
                        return Err(word);
                    }
                }
                "attacks" => options.attacks = value,
                "hash" => options.hash = Some(value),
                "note" => options.note = Some(value),
                "write" => options.write = Some(value),
                _ => {}
            }
        }
        Ok(options)
    }

    /// The DMA policies to run, in order.
    pub fn policies(&self) -> impl Iterator<Item = &'static str> + use<'a> {
        let wanted = self.policy;
        POLICIES.into_iter().filter(move |policy| wanted == "all" || wanted == *policy)
    }

    /// Should the attacks of this row be made?
    pub fn attacks(&self, row: &str) -> bool {
        self.attacks == "all" || self.attacks.split(',').any(|name| name == row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_is_the_whole_story() {
        let options = Options::parse("").unwrap();
        assert_eq!((options.scenario, options.vcpus), ("story", 2));
        assert!(options.policies().eq(POLICIES) && options.attacks("C1"));
    }

    #[test]
    fn words_choose() {
        let line = "quiet policy=bounce-bar vcpus=8 attacks=C1,M3 note=hi";
        let options = Options::parse(line).unwrap();
        assert!(options.policies().eq(["bounce-bar"]));
        assert!(options.attacks("M3") && !options.attacks("C10"));
        assert_eq!((options.vcpus, options.note), (8, Some("hi")));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(Options::parse("vcpus=9"), Err("vcpus=9"));
        assert_eq!(Options::parse("policy=none"), Err("policy=none"));
    }
}
