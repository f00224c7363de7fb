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

/// One word of the command line, understood or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word<'a> {
    /// `log=error|warn|info|debug`
    Log(Verbosity),
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
        other => Word::Unknown(other),
    })
}

/// The verbosity `line` asks for; the last word wins.
pub fn verbosity(line: &str) -> Verbosity {
    words(line)
        .filter_map(|word| match word {
            Word::Log(verbosity) => Some(verbosity),
            Word::Unknown(_) => None,
        })
        .last()
        .unwrap_or_default()
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
    fn an_empty_line_means_info() {
        assert_eq!(verbosity(""), Verbosity::Info);
    }
}
