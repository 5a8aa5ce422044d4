//! Values of every wire type, from random bytes for properties and from counted ones for vectors.

use protocol::Operation;
use protocol::codec::{WireSecret, opaque};
use protocol::reporting::Padded;
use tls_codec::VLBytes;

/// Where the content of values comes from.
pub(crate) struct Source {
    bytes: Box<dyn Iterator<Item = u8>>,
    choice: Option<usize>,
}

impl Source {
    /// Content and choices are these bytes, again and again.
    pub(crate) fn random(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Box::new(bytes.into_iter().cycle()),
            choice: None,
        }
    }

    /// Content is 0, 1, 2 and so on. Each choice is this one, or the last that there is.
    pub(crate) fn counted(choice: usize) -> Self {
        Self {
            bytes: Box::new((0..=u8::MAX).cycle()),
            choice: Some(choice),
        }
    }

    pub(crate) fn take<T: Sample>(&mut self) -> T {
        T::sample(self)
    }

    pub(crate) fn choose(&mut self, count: usize) -> usize {
        match self.choice {
            Some(choice) => choice.min(count - 1),
            None => usize::from(self.take::<u8>()) % count,
        }
    }
}

/// A type that has samples.
pub(crate) trait Sample: Sized {
    fn sample(from: &mut Source) -> Self;
}

impl Sample for u8 {
    fn sample(from: &mut Source) -> Self {
        from.bytes.next().unwrap_or_default()
    }
}

impl<const N: usize> Sample for [u8; N] {
    fn sample(from: &mut Source) -> Self {
        std::array::from_fn(|_| from.take())
    }
}

macro_rules! numbers {
    ($($number:ty)+) => {$(
        impl Sample for $number {
            fn sample(from: &mut Source) -> Self {
                Self::from_be_bytes(from.take())
            }
        }
    )+};
}
numbers! { u16 u32 u64 }

impl Sample for VLBytes {
    /// Short ones, now and then so long that the length takes two bytes (RFC 9420 §2.1.2).
    fn sample(from: &mut Source) -> Self {
        let long = usize::from(from.take::<u8>() > 240) * 60;
        let length = long + usize::from(from.take::<u8>()) % 7;
        opaque((0..length).map(|_| from.take()).collect::<Vec<u8>>())
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(from: &mut Source) -> Self {
        (0..from.choose(3)).map(|_| from.take()).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(from: &mut Source) -> Self {
        (from.choose(2) == 1).then(|| from.take())
    }
}

impl Sample for WireSecret {
    fn sample(from: &mut Source) -> Self {
        Self::new(from.take())
    }
}

impl<const N: usize> Sample for Padded<N> {
    fn sample(from: &mut Source) -> Self {
        let length = usize::from(from.take::<u8>()) % (N - 1);
        Self::new((0..length).map(|_| from.take()).collect::<Vec<u8>>()).unwrap()
    }
}

impl Sample for Operation {
    fn sample(from: &mut Source) -> Self {
        Self::ALL[usize::from(from.take::<u8>()) % Self::ALL.len()]
    }
}
