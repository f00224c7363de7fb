//! bouncer, watched while it runs: by a trace that is checked afterwards, and
//! by its oracle under a host that calls at random.

use std::time::Duration;

use anyhow::{Context, Result};
use hyp::trace::Event;
use tests::{file, one_at_a_time, ready};
use xtask::build::{self, Variant};
use xtask::on_target::{self, Mix, Options};
use xtask::story::{Config, tell};

/// The story's records: all kept, no rule broken; and the same without one
/// of its invalidations breaks one, so that "none broken" means something.
#[test]
fn the_storys_tlbs_are_told_of_every_change() -> Result<()> {
    let (workspace, _) = ready()?;
    let images = build::images_of(&workspace, Variant::Traced)?;
    let mut config = Config::new("watched");
    let file = file("watched", "trace.bin", b"")?;
    config.trace = Some(file.clone());
    let run = {
        let _turn = one_at_a_time();
        tell(&workspace, &images, &config, &mut |_| {})?
    };
    assert!(run.report.passed(), "console in {}", run.folder.display());

    let mut trace = trace::read(&std::fs::read(file)?)?;
    assert_eq!(trace.lost, 0, "the log is too small for the story");
    assert_eq!(trace::replay(&trace.records), []);

    // The last invalidation but one of the host's: a frame went to a guest.
    let host = |event: &Event| matches!(event, Event::Invalidate(regime, _) if regime.vmid.0 == 1);
    let mut found = trace.records.iter().rposition(|record| host(&record.event));
    while let Some(index) = found {
        let left_out = trace.records.remove(index);
        let findings = trace::replay(&trace.records);
        if !findings.is_empty() {
            assert!(findings[0].record.number > left_out.number, "{:?}", findings[0]);
            return Ok(());
        }
        // The whole regime was invalidated right after it, too.
        found = trace.records[..index].iter().rposition(|record| host(&record.event));
    }
    anyhow::bail!("no invalidation of the host's was missed")
}

/// Ten seconds of a hostile host on two CPUs.
#[test]
fn a_host_that_calls_at_random_breaks_no_rule() -> Result<()> {
    let (workspace, _) = ready()?;
    let _turn = one_at_a_time();
    let options = Options {
        on_target: true,
        cpus: 2,
        seed: Some(1),
        calls: None,
        mix: Some(Mix::default()),
        oracle: "changes".into(),
    };
    let reports = on_target::play(&workspace, &options, Duration::from_secs(10), None)?;
    let last = reports.last().context("no round was played")?;
    for report in &reports {
        assert_eq!(report.failure, "", "seed {:#x} mix {}", report.seed, report.mix);
        assert!(report.calls > 0 && report.edges > 0, "{report:?}");
    }
    assert!(last.covered >= last.edges && last.covered < last.total, "{last:?}");
    Ok(())
}
