//! Services as data: hosts, injection, environment variables, placeholders, operations. (placeholder)
