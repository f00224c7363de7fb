//! `cargo run -p model --release --bin check-ownership [-- --depth N]`: every
//! sequence of ownership calls up to a depth.

use model::ownership::{Begin, search};
use std::process::ExitCode;
use std::time::Instant;

const HELP: &str = "Makes every sequence of ownership calls up to a depth, with three frames, two
guests, the host and EL2, and holds bouncer to its model after each.

Usage: check-ownership [--depth N]

  --depth N   longest sequence (default 5); a search ends before if there is
              no new state

Ends with 1 and a listing at the first rule broken.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let depth = match words.as_slice() {
        [] => Some(5),
        ["--help" | "-h"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        ["--depth", number] => number.parse().ok(),
        _ => None,
    };
    let Some(depth) = depth else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    for begin in [Begin::Building, Begin::Running] {
        println!("guests that are {begin:?}:");
        let start = Instant::now();
        let result = search(begin, depth, |coverage| {
            println!(
                "  depth {:2}  {:6} states  {:8} calls, {} succeeded  {:.1} s",
                coverage.depth,
                coverage.states,
                coverage.transitions,
                coverage.successes,
                start.elapsed().as_secs_f64()
            );
        });
        match result {
            Ok(coverage) if coverage.complete => println!("  no state lies beyond"),
            Ok(_) => println!("  there is more beyond this depth"),
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
