//! Tells payloads how to be linked: their build script passes the arguments
//! on (`rt` itself is a library and is not linked).

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::metadata=LINK_ARGS=-T{directory}/payload.ld,{ARGUMENTS}");
    println!("cargo::rerun-if-changed=payload.ld");
    println!("cargo::rerun-if-changed=build.rs");
}

/// A payload is a static position-independent executable: code reaches its
/// data by page-relative addresses whatever the relocation model, and what
/// absolute pointers there are become relative relocations, which the entry
/// code applies. `notext`: some of them sit in read-only sections.
const ARGUMENTS: &str =
    "-pie,--no-dynamic-linker,-znotext,-znorelro,--build-id=none,-zmax-page-size=4096";
