//! The board: what a machine looks like to bouncer.
#![no_std]
