//! The default protected guest.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("The guest runs on bare metal: build it for aarch64-unknown-none-softfloat.");
}

#[cfg(target_os = "none")]
mod payload {
    #![allow(unsafe_code)]

    use rt::println;

    rt::entry!(main);

    fn main(dtb: usize) -> ! {
        // SAFETY: the boot protocol puts a device tree there.
        if let Ok(tree) = unsafe { rt::fdt::Fdt::from_ptr(dtb as *const u8) } {
            if let Some((uart, _)) = rt::dt::device(&tree, "arm,pl011", 0) {
                rt::console::init(uart);
            }
            println!("guest: {}", rt::dt::command_line(&tree));
        }
        rt::psci::shutdown()
    }
}
