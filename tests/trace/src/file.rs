//! The file: a number of records, then the records, as they lay in EL2's
//! memory, 64-bit words in little endian.

use anyhow::{Context, Result, bail};
use hyp::trace::{Record, WORDS};

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The records, numbered from 0.
    pub records: Vec<Record>,
    /// How many more there were no room for.
    pub lost: u64,
}

/// Reads it.
///
/// # Errors
/// If it is no trace.
pub fn read(bytes: &[u8]) -> Result<Trace> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        bail!("no trace: {} bytes are no whole number of words", bytes.len());
    }
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let (&made, words) = words.split_first().context("no trace: the file is empty")?;
    let (records, rest) = words.as_chunks::<WORDS>();
    if !rest.is_empty() {
        bail!("no trace: its last record is cut short");
    }
    let kept = usize::try_from(made).unwrap_or(usize::MAX).min(records.len());
    let mut trace = Trace { records: Vec::with_capacity(kept), lost: made - kept as u64 };
    for (number, words) in (0..).zip(records.iter().take(kept)) {
        let record = Record::decode(*words).filter(|record| record.number == number);
        trace.records.push(record.with_context(|| format!("record {number} is none: {words:x?}"))?);
    }
    Ok(trace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyp::trace::Event;

    fn file(made: u64, records: &[Record]) -> Vec<u8> {
        let words = records.iter().flat_map(Record::encode);
        std::iter::once(made).chain(words).flat_map(u64::to_le_bytes).collect()
    }

    fn record(number: u64) -> Record {
        Record { number, cpu: 1, event: Event::Publish }
    }

    #[test]
    fn records_come_back_and_those_lost_are_counted() {
        let trace = read(&file(5, &[record(0), record(1)])).unwrap();
        assert_eq!((trace.records.len(), trace.lost), (2, 3));
        // Room that was not used is not read.
        let trace = read(&file(1, &[record(0), record(9)])).unwrap();
        assert_eq!((trace.records, trace.lost), (vec![record(0)], 0));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        assert!(read(b"").is_err());
        assert!(read(b"seven..").is_err());
        assert!(read(&file(1, &[record(0)])[..24]).is_err());
        let gap = read(&file(2, &[record(0), record(2)])).unwrap_err();
        assert!(gap.to_string().contains("record 1"), "{gap}");
    }
}
