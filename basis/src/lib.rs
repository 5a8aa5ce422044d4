//! What services and SDK share and no library has: the clock, HTTP dates, hexadecimal.

pub mod clock;
pub mod hex;
pub mod http_date;

pub use clock::{Clock, MovedClock, SharedClock, SystemClock};
