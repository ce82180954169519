/* cli/bench.h - the benches of `attune bench`, each with options of its own. argv[1] is its name. */
#pragma once

int bench_step(int argc, char **argv);
int bench_decode(int argc, char **argv);
