//! Links the EL2 binary as a position-independent image. Natively there is
//! nothing to link specially.

fn main() {
    println!("cargo:rerun-if-changed=image.ld");
    println!("cargo:rerun-if-changed=src/entry.S");
    println!("cargo:rerun-if-changed=src/vectors.S");
    let bare_metal = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if bare_metal {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        // -z notext: constants with pointers lie in .rodata and are relocated
        // by entry.S before the MMU makes it read-only.
        for argument in [
            &format!("-T{here}/image.ld"),
            "-pie",
            "--no-dynamic-linker",
            "-znotext",
            "-zmax-page-size=4096",
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
