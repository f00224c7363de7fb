//! How often which kind of step comes: what a fuzzer that looks at coverage
//! varies beside the seed.

/// Shares and rates. As text: nine numbers with commas between them, in the
/// order of the fields (`mix=` on this host's command line).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    /// Accesses to memory that may be anybody's.
    pub touch: u64,
    /// SMCs.
    pub smc: u64,
    /// Hypercalls with arguments that are garbage.
    pub garbage: u64,
    /// Questions.
    pub query: u64,
    /// Steps in the life of some VM.
    pub life: u64,
    /// One step in so many is bent.
    pub bend: u64,
    /// VM slots that are played with: fewer VMs live longer.
    pub vms: u64,
    /// Share of VCPU_RUN in the life of a VM that runs, against sixteen.
    pub runs: u64,
    /// One VM in so many is a realm.
    pub realms: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            touch: 6,
            smc: 3,
            garbage: 8,
            query: 5,
            life: 78,
            bend: 10,
            vms: 8,
            runs: 24,
            realms: 4,
        }
    }
}

impl Mix {
    /// Reads the numbers; `None` if there are not nine, or a rate is zero.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(',').map(|number| number.parse::<u16>().ok());
        let mut next = || numbers.next().flatten().map(u64::from);
        let mix = Self {
            touch: next()?,
            smc: next()?,
            garbage: next()?,
            query: next()?,
            life: next()?,
            bend: next()?,
            vms: next()?,
            runs: next()?,
            realms: next()?,
        };
        let good = [mix.life, mix.bend, mix.vms, mix.realms].iter().all(|rate| *rate > 0);
        (good && numbers.next().is_none()).then_some(mix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_numbers_are_a_mix_and_nothing_else_is() {
        assert_eq!(Mix::parse("6,3,8,5,78,10,8,24,4"), Some(Mix::default()));
        let quiet = Mix { touch: 0, ..Mix::default() };
        assert_eq!(Mix::parse("0,3,8,5,78,10,8,24,4"), Some(quiet));
        for text in [
            "",
            "1,2,3",
            "6,3,8,5,78,10,8,24,4,1",
            "6,3,8,5,78,0,8,24,4",
            "6,3,8,5,78,10,8,24,x",
            "6,3,8,5,78,10,8,24,65536",
        ] {
            assert_eq!(Mix::parse(text), None, "{text}");
        }
    }
}
