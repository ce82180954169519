/* data/dataset.h - prepared data: the tokens of all examples of a file, on disk and mapped.
 *
 * A folder with three files, little endian:
 *
 *   tokens.bin    uint32 per token: the id, with DATASET_TRAINS set where the token carries loss as a label
 *   index.bin     one struct dataset_entry per sequence, in the file's order; an example is one sequence, a preference
 *                 two: chosen at 2i, rejected at 2i + 1
 *   summary.json  what was read and what was left out; "format": 1
 *
 * It is written once, streaming, and only read afterwards; a training run maps it. Sequences have at least one token
 * that trains and at most context_length tokens. */
#pragma once

#include "data/example.h"
#include "os/file.h"

enum { DATASET_FORMAT = 1, DATASET_LINES_NAMED = 20 };
#define DATASET_TRAINS 0x80000000u

#define OVER_LENGTH_POLICIES(X) X(DROP, "drop") X(ERROR, "error") X(TRUNCATE, "truncate")
enum over_length {
#define OVER_LENGTH_ENUM(name, text) OVER_LENGTH_##name,
    OVER_LENGTH_POLICIES(OVER_LENGTH_ENUM)
#undef OVER_LENGTH_ENUM
    OVER_LENGTH_COUNT
};
const char *over_length_name(enum over_length policy);
bool over_length_find(struct str name, enum over_length *policy);

struct dataset_entry {
    uint64_t start; /* in tokens.bin, in tokens */
    uint64_t line;  /* of the source, from 1 */
    uint32_t count;
    uint32_t trained_count;
};

#define DATASET_COUNTS(X)                                                                                              \
    X(lines)    /* of the source */                                                                                    \
    X(bytes)    /* of the source */                                                                                    \
    X(examples) /* kept */                                                                                             \
    X(tokens)   /* of the kept ones */                                                                                 \
    X(trained_tokens)                                                                                                  \
    X(turns)             /* assistant turns, completions, texts that train */                                          \
    X(stopped_turns)     /* those whose last token ends the turn or text */                                            \
    X(longest)           /* tokens of the longest example that was read, before any cut */                             \
    X(over_length_lines) /* longer than context_length: left out or cut, by policy */                                  \
    X(untrained_lines)   /* left out because nothing in them trains */

struct dataset_summary {
#define DATASET_COUNT_FIELD(name) uint64_t name;
    DATASET_COUNTS(DATASET_COUNT_FIELD)
#undef DATASET_COUNT_FIELD
    enum example_kind kind;
    enum over_length policy;
    uint32_t context_length;
    uint64_t over_length_named[DATASET_LINES_NAMED], untrained_named[DATASET_LINES_NAMED]; /* the first line numbers */
    char file_hash[65], tokenizer_hash[65], template_hash[65];
};

bool dataset_summary_write(const struct dataset_summary *summary, const char *path, struct err *err);

struct dataset {
    struct dataset_summary summary;
    struct mapped_file tokens_file, index_file;
    const uint32_t *tokens;
    const struct dataset_entry *entry; /* [count] */
    uint32_t count;                    /* sequences */
};

/* Checks that the three files fit together before it returns. */
bool dataset_open(struct dataset *dataset, const char *folder, struct err *err);
void dataset_close(struct dataset *dataset); /* of a zeroed struct: nothing */
