//! Every behaviour on every substrate.

alknet_tests::conformance!(linked, alknet_tests::substrate::InMemory::linked());
