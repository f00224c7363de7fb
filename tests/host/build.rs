//! Passes the runtime's linker arguments on.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let arguments = std::env::var("DEP_PAYLOAD_RT_LINK_ARGS").unwrap_or_default();
        for argument in arguments.split(',') {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../rt/payload.ld");
}
