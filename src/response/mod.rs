//! Response: what a backend's response means. What leaves this room never changes what a caller
//! gets.

pub mod diagnosis;
