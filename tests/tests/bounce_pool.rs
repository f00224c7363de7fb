//! The pool of the kernel module in linux/bounce, compiled for this machine:
//! random calls, a device that writes into all of its memory at any time, and
//! the sanitizers of the C compiler.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::runs::RunFolder;
use xtask::workspace::Workspace;

/// Where the program is, and what it stands in for the kernel with.
const PROGRAM: &str = "tests/linux/pool";
/// Where the pool is.
const MODULE: &str = "linux/bounce";
/// Calls of each of two pools.
const STEPS: &str = "4000";
/// Sequences of random calls.
const SEEDS: [&str; 3] = ["1", "20261128", "77777777777"];

/// The kernel's headers that the pool includes.
fn included(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("#include <linux/")?.strip_suffix('>'))
}

#[test]
fn a_pool_gives_back_what_it_took_and_refuses_what_it_did_not_give() -> Result<()> {
    let workspace = Workspace::find()?;
    let folder = RunFolder::new(&workspace, "bounce-pool")?;
    let module = workspace.root.join(MODULE);
    std::fs::create_dir_all(folder.join("linux"))?;
    for name in ["pool.c", "bounce.h"] {
        for header in included(&std::fs::read_to_string(module.join(name))?) {
            std::fs::write(folder.join("linux").join(header), "#include \"shim.h\"\n")?;
        }
    }
    let program = folder.join("pool_test");
    let source = workspace.root.join(PROGRAM);
    let mut compile = Command::new("cc");
    compile.args(["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]);
    compile.args(["-Wno-sign-compare", "-Wno-unused-parameter"]);
    compile.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    for place in [&*folder, &source, &module] {
        compile.arg("-I").arg(place);
    }
    compile.arg("-o").arg(&program).arg(source.join("pool_test.c"));
    let output = compile.output().context("cannot start cc")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for seed in SEEDS {
        let output = Command::new(&program).args([STEPS, seed]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "seed {seed}: {said}");
        ensure!(output.stdout == b"8000 steps held\n", "seed {seed}");
    }
    Ok(())
}
