// A library, but not of plug-ins.
extern "C" int nothing_to_see();
int nothing_to_see() { return 0; }
