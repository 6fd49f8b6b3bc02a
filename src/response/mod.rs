//! Response: what a backend's response means: a mistake of configuration, and what it has used. What a
//! caller gets is changed in one way only: an event that nobody but the gateway has asked for is taken out.

pub mod diagnosis;
pub mod usage;
