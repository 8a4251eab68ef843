//! What the tests stand on: real servers on free ports, in temporary directories, gone afterwards.
