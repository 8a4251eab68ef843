//! Chance that can be repeated.

/// Small numbers that differ, the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        // xorshift64*: good enough to break files and messages.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }
}

/// A seed to repeat a failure with: `HOSTILE_SEED=…`.
pub fn seed() -> u64 {
    let given = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64 | 1);
    println!("HOSTILE_SEED={seed}");
    seed
}
