"""What harness itself needs to be fast, in C++: the checker of a trace's rows."""
