/* cli/bench.h - the benches of `attune bench`, each with options of its own. argv[1] is its name. */
#pragma once

int bench_step(int argc, char **argv);
int bench_decode(int argc, char **argv);
/* Figures as one line of JSON on standard output, for the scripts in bench/. */
int bench_tokenize(int argc, char **argv);
int bench_prepare(int argc, char **argv);
