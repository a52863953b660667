#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cohortd_fuzz::proxy_header(bytes));
