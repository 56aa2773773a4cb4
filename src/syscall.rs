//! The one file of system calls that no safe wrapper covers. (placeholder)
