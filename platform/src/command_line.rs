//! bouncer's own command line: `/chosen/bootargs`, words separated by blanks.

/// How much bouncer says while it boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verbosity {
    /// Only what stops it.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what it found: the default.
    #[default]
    Info,
    /// And how it decided.
    Debug,
}

/// How much a bouncer that was built with its oracle checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oracle {
    /// Nothing.
    Off,
    /// What each call may have changed, and now and then everything.
    Changes,
    /// Everything, after each trap of the host.
    Every,
}

/// One word of the command line, understood or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word<'a> {
    /// `log=error|warn|info|debug`
    Log(Verbosity),
    /// `oracle=off|changes|every`
    Oracle(Oracle),
    /// Anything else; bouncer warns about it.
    Unknown(&'a str),
}

/// The words of `line`, in order.
pub fn words(line: &str) -> impl Iterator<Item = Word<'_>> {
    line.split_ascii_whitespace().map(|word| match word {
        "log=error" => Word::Log(Verbosity::Error),
        "log=warn" => Word::Log(Verbosity::Warn),
        "log=info" => Word::Log(Verbosity::Info),
        "log=debug" => Word::Log(Verbosity::Debug),
        "oracle=off" => Word::Oracle(Oracle::Off),
        "oracle=changes" => Word::Oracle(Oracle::Changes),
        "oracle=every" => Word::Oracle(Oracle::Every),
        other => Word::Unknown(other),
    })
}

/// The verbosity `line` asks for; the last word wins.
pub fn verbosity(line: &str) -> Verbosity {
    words(line)
        .filter_map(|word| match word {
            Word::Log(verbosity) => Some(verbosity),
            Word::Oracle(_) | Word::Unknown(_) => None,
        })
        .last()
        .unwrap_or_default()
}

/// What `line` wants the oracle to check, if it says so; the last word wins.
pub fn oracle(line: &str) -> Option<Oracle> {
    words(line)
        .filter_map(|word| match word {
            Word::Oracle(oracle) => Some(oracle),
            Word::Log(_) | Word::Unknown(_) => None,
        })
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_log_word_wins_and_unknown_words_are_reported() {
        let line = " log=debug  quiet log=warn log=loud ";
        assert_eq!(verbosity(line), Verbosity::Warn);
        let unknown: std::vec::Vec<_> =
            words(line).filter(|word| matches!(word, Word::Unknown(_))).collect();
        assert_eq!(unknown, [Word::Unknown("quiet"), Word::Unknown("log=loud")]);
    }

    #[test]
    fn an_empty_line_means_info_and_leaves_the_oracle_alone() {
        assert_eq!((verbosity(""), oracle("")), (Verbosity::Info, None));
    }

    #[test]
    fn the_oracle_is_told_by_its_last_good_word() {
        assert_eq!(oracle("oracle=every log=warn oracle=off"), Some(Oracle::Off));
        assert_eq!(oracle("oracle=changes oracle=sometimes"), Some(Oracle::Changes));
    }
}
