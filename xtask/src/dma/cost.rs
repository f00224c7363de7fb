//! What a measured boot has told: the cost of a request, and what the host
//! could see meanwhile.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::owners::Owners;
use crate::console::Record;

/// Bytes of a request, and requests at a time: the order of the guest's cases
/// (`tests/guest/src/payload/dma/measure.rs`).
pub(super) const SIZES: [u64; 5] = [512, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
pub(super) const DEPTHS: [u64; 2] = [1, 16];
/// The sizes of which the guest shows what the host can see.
pub(super) const EXPOSED: [u64; 2] = [512, 4 << 10];

/// All of one system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) mode: String,
    pub(super) requests: Vec<Cost>,
    pub(super) exposure: Vec<Exposure>,
    /// Whose each page is, trap by trap, if that was asked for.
    #[serde(skip)]
    pub(super) owners: Owners,
}

/// Pages from the first number on, up to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range(pub(super) u64, pub(super) u64);

/// What one request costs, on average over 64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cost {
    pub(super) bytes: u64,
    pub(super) depth: u64,
    #[serde(flatten)]
    pub(super) of: Counts,
}

/// The counts of a request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Hypercalls of the guest.
    pub(super) hypercalls: f64,
    /// Times that EL2 was entered, from the guest or the host.
    pub(super) el2_entries: f64,
    /// Exits of the guest that EL2 passed on to the host.
    pub(super) returns_to_host: f64,
    pub(super) tlb_invalidations: f64,
    /// Words of stage-2 tables.
    pub(super) table_words: f64,
    /// Bytes the guest copied to where the device sees them, and back: data,
    /// headers, indirect tables and status bytes.
    pub(super) copied_in: f64,
    pub(super) copied_out: f64,
    /// Interrupts of the device that the guest was given.
    pub(super) interrupts: f64,
    /// Instructions.
    pub(super) el2: f64,
    pub(super) guest: f64,
    pub(super) host: f64,
}

impl Counts {
    /// Their names and values, in the order of the columns.
    pub(super) fn named(&self) -> [(&'static str, f64); 11] {
        [
            ("hypercalls", self.hypercalls),
            ("EL2 entries", self.el2_entries),
            ("returns to host", self.returns_to_host),
            ("TLB invalidations", self.tlb_invalidations),
            ("table words", self.table_words),
            ("bytes copied in", self.copied_in),
            ("bytes copied out", self.copied_out),
            ("interrupts", self.interrupts),
            ("instructions of EL2", self.el2),
            ("instructions of the guest", self.guest),
            ("instructions of the host", self.host),
        ]
    }

    /// Instructions of everybody.
    pub(super) fn all(&self) -> f64 {
        self.el2 + self.guest + self.host
    }
}

/// What the host can see while 64 requests that read are made, 16 at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Exposure {
    pub(super) bytes: u64,
    /// Pages that guest and host both have, before the first and after each
    /// step: a request was mapped, or came back and was unmapped. Not in the
    /// committed figures: peak, mean and after say enough to compare.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pages: Vec<u64>,
    /// Of those, most and on average.
    pub(super) peak: u64,
    pub(super) mean: f64,
    /// And when everything is unmapped.
    pub(super) after: u64,
    /// Bytes beside the buffers that were found there: most at once.
    pub(super) beyond: u64,
    /// Bytes that the buffers held before: most at once.
    pub(super) stale: u64,
}

impl Measured {
    /// Reads a console.
    ///
    /// # Errors
    /// What it lacks.
    pub(super) fn read(mode: &str, lines: &[String]) -> Result<Self> {
        let records: Vec<Record> = lines
            .iter()
            .filter_map(|line| Record::parse(line))
            .filter(|record| record.says("dma"))
            .collect();
        let asking = Told::find(&records, 0)?;
        let cases = DEPTHS.into_iter().flat_map(|depth| SIZES.map(|bytes| (bytes, depth)));
        let requests = (1..)
            .zip(cases)
            .map(|(case, (bytes, depth))| {
                let of = Told::find(&records, case)?.beyond(&asking, bytes, depth)?;
                Ok(Cost { bytes, depth, of })
            })
            .collect::<Result<_>>()?;
        let exposure =
            EXPOSED.into_iter().map(|bytes| exposure(&records, bytes)).collect::<Result<_>>()?;
        Ok(Self { mode: mode.to_owned(), requests, exposure, owners: Owners::default() })
    }

    /// The cost of such requests.
    pub(super) fn cost(&self, bytes: u64, depth: u64) -> Option<&Counts> {
        let found = self.requests.iter().find(|cost| (cost.bytes, cost.depth) == (bytes, depth));
        found.map(|cost| &cost.of)
    }

    /// What the host sees of such requests.
    pub(super) fn exposed(&self, bytes: u64) -> Option<&Exposure> {
        self.exposure.iter().find(|exposure| exposure.bytes == bytes)
    }
}

/// The two records of a case: what the host counted, and what the guest copied.
struct Told<'a> {
    cost: &'a Record,
    copied: &'a Record,
}

impl<'a> Told<'a> {
    fn find(records: &'a [Record], case: u64) -> Result<Self> {
        let find = |word: &str| {
            let own = |record: &&Record| record.says(word) && number(record, "case") == Some(case);
            let found = records.iter().find(own);
            found.with_context(|| format!("the console has no `{word}` of case {case}"))
        };
        Ok(Self { cost: find("cost")?, copied: find("copied")? })
    }

    /// For each request, without what it costs to ask.
    fn beyond(&self, asking: &Self, bytes: u64, depth: u64) -> Result<Counts> {
        let copied = |name| number(self.copied, name).with_context(|| format!("no {name}"));
        ensure!(
            (copied("bytes")?, copied("depth")?) == (bytes, depth),
            "the guest's cases are not those of xtask"
        );
        let requests = copied("requests")? as f64;
        ensure!(requests > 0.0, "no requests were made");
        let counted = |name: &str| -> Result<f64> {
            let told = |record| number(record, name).with_context(|| format!("no {name}"));
            Ok((told(self.cost)? as f64 - told(asking.cost)? as f64) / requests)
        };
        let frequency = number(self.cost, "frequency").context("no frequency")? as f64;
        let instructions = |name| Ok::<_, anyhow::Error>(round(counted(name)? * 1e9 / frequency));
        let count = |name| Ok::<_, anyhow::Error>(round(counted(name)?));
        Ok(Counts {
            hypercalls: count("exits_hypercall")?,
            el2_entries: count("el2_entries")?,
            returns_to_host: count("returns_to_host")?,
            tlb_invalidations: count("tlb_invalidations")?,
            table_words: count("table_words_written")?,
            copied_in: round(copied("in")? as f64 / requests),
            copied_out: round(copied("out")? as f64 / requests),
            interrupts: count("device_interrupts")?,
            el2: instructions("ticks_el2")?,
            guest: instructions("ticks_guests")?,
            host: instructions("ticks_host")?,
        })
    }
}

fn number(record: &Record, name: &str) -> Option<u64> {
    record.get(name)?.parse().ok()
}

/// To thousandths: no figure is worth more, and a file of them is readable.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// `when=` of the guest's `load::When`.
const IN_FLIGHT: u64 = 1;
const BACK: u64 = 2;

fn exposure(records: &[Record], bytes: u64) -> Result<Exposure> {
    let of = |word: &'static str| {
        let own = move |record: &&Record| {
            record.says(word) && number(record, "bytes") == Some(bytes) && record.name == "host"
        };
        records.iter().filter(own)
    };
    let read = |record: &Record, name| number(record, name).with_context(|| format!("no {name}"));
    let pages: Vec<u64> = of("pages").map(|record| read(record, "pages")).collect::<Result<_>>()?;
    let scans: Vec<&Record> = of("scan").collect();
    let at = |when| scans.iter().filter(move |scan| number(scan, "when") == Some(when)).count();
    // One before the first batch, and two for each of the four.
    ensure!(
        (at(IN_FLIGHT), at(BACK)) == (4, 5),
        "the host did not look as often as it was asked to, with {bytes} bytes"
    );
    let most = |name| -> Result<u64> {
        let all = scans.iter().map(|scan| read(scan, name)).collect::<Result<Vec<u64>>>()?;
        Ok(all.into_iter().max().unwrap_or(0))
    };
    Ok(Exposure {
        bytes,
        peak: pages.iter().copied().max().unwrap_or(0),
        mean: round(pages.iter().sum::<u64>() as f64 / pages.len().max(1) as f64),
        after: pages.last().copied().unwrap_or(0),
        beyond: most("beyond")?,
        stale: most("stale")?,
        pages,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A console of a system with one hypercall and 100 instructions of EL2
    /// for each request.
    pub(in super::super) fn console() -> Vec<String> {
        let mut lines = Vec::new();
        let mut case = |case: u64, bytes: u64, depth: u64, requests: u64| {
            let calls = requests;
            let el2 = 50 + 100 * requests;
            lines.push(format!(
                "@host dma cost case={case} frequency=1000000000 exits_hypercall={calls} \
                 returns_to_host=3 notifications=0 device_interrupts=0 tlb_invalidations=0 \
                 table_words_written=0 el2_entries=9 ticks_el2={el2} ticks_host=7 ticks_guests=7"
            ));
            lines.push(format!(
                "@guest dma copied case={case} bytes={bytes} depth={depth} requests={requests} \
                 in={} out=0",
                bytes * requests
            ));
        };
        case(0, 0, 1, 0);
        let cases = DEPTHS.into_iter().flat_map(|depth| SIZES.map(|bytes| (bytes, depth)));
        (1..).zip(cases).for_each(|(number, (bytes, depth))| case(number, bytes, depth, 64));
        for bytes in EXPOSED {
            let mut look = |when: u64, pages: u64, stale: u64| {
                lines.push(format!("@host dma pages bytes={bytes} when={when} pages={pages}"));
                lines.push(format!(
                    "@host dma scan bytes={bytes} when={when} pages={pages} stale={stale} beyond=0"
                ));
            };
            look(2, 4, 0);
            for batch in 0..4 {
                look(1, 20, 8 * batch);
                look(2, 4, 0);
            }
        }
        lines
    }

    #[test]
    fn a_request_costs_what_is_beyond_asking() {
        let measured = Measured::read("x", &console()).unwrap();
        let cost = measured.cost(4096, 16).unwrap();
        assert_eq!((cost.hypercalls, cost.el2, cost.host), (1.0, 100.0, 0.0));
        assert_eq!((cost.copied_in, cost.all()), (4096.0, 100.0));
        assert_eq!(measured.requests.len(), 10);
    }

    #[test]
    fn exposure_is_read_in_the_order_of_time() {
        let exposed = Measured::read("x", &console()).unwrap().exposed(512).unwrap().clone();
        assert_eq!(exposed.pages, [4, 20, 4, 20, 4, 20, 4, 20, 4]);
        assert_eq!((exposed.peak, exposed.after, exposed.stale), (20, 4, 24));
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        for word in ["cost case=3 ", "copied case=7 ", "scan bytes=512 when=1"] {
            let mut lines = console();
            lines.retain(|line| !line.contains(word));
            assert!(Measured::read("x", &lines).is_err(), "{word}");
        }
        // Another order of cases than ours.
        let lines: Vec<String> =
            console().iter().map(|line| line.replace("bytes=65536", "bytes=1")).collect();
        assert!(Measured::read("x", &lines).unwrap_err().to_string().contains("cases"));
    }
}
