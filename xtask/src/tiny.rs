//! Programs of a few A64 instructions, made here, so that a test can meddle
//! with the machine before bouncer sees it. Encodings: Arm ARM, C6.2.

/// A register number, 0 to 30.
type Register = u32;

/// A system register's op0, op1, CRn, CRm and op2.
pub type SystemRegister = (u32, u32, u32, u32, u32);

/// Instructions in order.
#[derive(Debug, Default, Clone)]
pub struct Program {
    instructions: Vec<u32>,
}

/// First byte of RAM on QEMU virt.
pub const RAM: u64 = 0x4000_0000;
/// Data register of the PL011.
const UART: u64 = 0x0900_0000;
/// PSCI 0.2 SYSTEM_OFF.
const SYSTEM_OFF: u64 = 0x8400_0008;

impl Program {
    /// xN = value.
    #[must_use]
    pub fn set(mut self, register: Register, value: u64) -> Self {
        for (half, base) in
            [0xd280_0000_u32, 0xf2a0_0000, 0xf2c0_0000, 0xf2e0_0000].iter().enumerate()
        {
            let bits = (value >> (16 * half)) as u32 & 0xffff;
            if half == 0 || bits != 0 {
                self.instructions.push(base | bits << 5 | register);
            }
        }
        self
    }

    /// The 32-bit word at xBASE + offset = the low half of xFROM.
    #[must_use]
    pub fn store(mut self, from: Register, base: Register, offset: u32) -> Self {
        self.instructions.push(0xb900_0000 | (offset / 4) << 10 | base << 5 | from);
        self
    }

    /// Writes xFROM to the system register (op0, op1, CRn, CRm, op2).
    #[must_use]
    pub fn system(mut self, register: SystemRegister, from: Register) -> Self {
        let (op0, op1, crn, crm, op2) = register;
        let fields = (op0 & 1) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5;
        self.instructions.push(0xd510_0000 | fields | from);
        self
    }

    /// One instruction as it is.
    #[must_use]
    pub fn raw(mut self, instruction: u32) -> Self {
        self.instructions.push(instruction);
        self
    }

    /// Prints on the serial line; spoils x1 and x2.
    #[must_use]
    pub fn print(mut self, text: &str) -> Self {
        self = self.set(1, UART);
        for byte in text.bytes() {
            self = self.set(2, byte.into()).store(2, 1, 0);
        }
        self
    }

    /// Powers off by SMC, as firmware below EL2 is called.
    #[must_use]
    pub fn power_off(self) -> Self {
        let mut program = self.set(0, SYSTEM_OFF);
        program.instructions.push(0xd400_0003);
        program
    }

    /// Goes round for ever.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.instructions.push(0x1400_0000);
        self
    }

    /// Jumps to an address; spoils x16.
    #[must_use]
    pub fn jump(self, to: u64) -> Self {
        let mut program = self.set(16, to);
        program.instructions.push(0xd61f_0000 | 16 << 5);
        program
    }

    /// As an arm64 Image that wants to lie `offset` bytes into RAM (Linux,
    /// arm64/booting.rst).
    #[must_use]
    pub fn image(&self, offset: u64) -> Vec<u8> {
        const HEADER: usize = 64;
        let size = HEADER + 4 * self.instructions.len();
        let mut image = vec![0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        // A branch over the header.
        put(0, &(0x1400_0000_u32 | (HEADER as u32 / 4)).to_le_bytes());
        put(8, &offset.to_le_bytes());
        put(16, &(size as u64).to_le_bytes());
        // Flags: little endian, 4 KiB pages.
        put(24, &2u64.to_le_bytes());
        put(56, b"ARM\x64");
        image.extend(self.instructions.iter().flat_map(|word| word.to_le_bytes()));
        image
    }
}
