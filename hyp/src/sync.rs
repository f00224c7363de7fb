//! The lock under which bouncer keeps what CPUs share: a spin lock. With the
//! feature `shuttle` it is a lock of a scheduler that tries interleavings;
//! nothing else differs.

#[cfg(not(feature = "shuttle"))]
pub(crate) use spin::Mutex;

#[cfg(feature = "shuttle")]
pub(crate) use scheduled::Mutex;

#[cfg(feature = "shuttle")]
mod scheduled {
    use std::sync::PoisonError;

    /// [`shuttle::sync::Mutex`] with the interface of [`spin::Mutex`].
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
