/* model/safetensors.h - the weight file format, read as a map and written as a stream.
 *
 * Reading trusts nothing: the header is at most 100 MB and at most 65,536 tensors, names are at most 512 bytes and
 * occur once, every shape times its type is exactly its byte range, and the ranges tile the data from 0 to the end of
 * the file without hole or overlap. A violated rule gives ERR_INPUT with the file and the rule. Every type of the
 * format is known by size; `type` is DTYPE_COUNT for those that attune cannot compute with.
 *
 * A set is the weights of one model folder: model.safetensors, or the shards that model.safetensors.index.json lists.
 */
#pragma once

#include "compute/backend.h"
#include "base/str.h"
#include "os/file.h"
#include "base/hash.h"

enum { SAFETENSORS_RANK_MAX = 8, SAFETENSORS_NAME_MAX = 512, SAFETENSORS_COUNT_MAX = 65536 };

struct safetensor {
    struct str name;
    enum dtype type; /* DTYPE_COUNT: a type that attune only lists; type_name says which */
    struct str type_name;
    int rank; /* 0 .. SAFETENSORS_RANK_MAX */
    uint64_t shape[SAFETENSORS_RANK_MAX];
    const void *data; /* little endian, row-major; aligned only as the file has it */
    uint64_t bytes;
    int file; /* of a set: index of its file there */
};

/* One parsed file. Tensors are sorted by name. */
struct safetensors {
    struct safetensor *tensor;
    int count;
    struct str metadata_format; /* __metadata__.format, empty when absent */
};
/* Parses a whole file in memory; `name` is for messages. Everything refers to `bytes` and the arena. */
bool safetensors_parse(struct arena *arena, struct str bytes, const char *name, struct safetensors *out,
                       struct err *err);
const struct safetensor *safetensors_find(const struct safetensors *file, struct str name);

struct safetensors_set {
    struct safetensor *tensor; /* of all files, sorted by name */
    int count;
    struct mapped_file *file;
    const char **file_name; /* without the folder; as the index lists them */
    int file_count;
};
/* Opens folder/model.safetensors or the shards of its index. The maps live until safetensors_set_close, the rest in the
 * arena. */
bool safetensors_set_open(struct safetensors_set *set, struct arena *arena, const char *folder, struct err *err);
/* The same for one named file (adapter_model.safetensors, state.safetensors). */
bool safetensors_set_open_file(struct safetensors_set *set, struct arena *arena, const char *path, struct err *err);
void safetensors_set_close(struct safetensors_set *set); /* of a zeroed struct: nothing */
const struct safetensor *safetensors_set_find(const struct safetensors_set *set, const char *name);

/* Writing: begin sorts the entries (larger types first, then by name, as the reference writer does) and writes the
 * header with {"format":"pt"}; then the bytes of each entry follow in that order, in pieces of any size; end checks
 * that all came, syncs and closes. The name is final: callers that need an atomic file write into a temporary folder.
 */
struct safetensors_entry {
    const char *name;
    enum dtype type;
    int rank;
    uint64_t shape[SAFETENSORS_RANK_MAX];
    void *context; /* the caller's: what the entry was made from */
};
uint64_t safetensors_entry_bytes(const struct safetensors_entry *entry);
/* Of a whole file with these, header and all. Sorts them, as writing does. */
uint64_t safetensors_file_bytes(struct safetensors_entry *entries, int count);

struct safetensors_writer {
    const char *path;
    int fd;
    uint64_t expected_bytes, written_bytes;
    struct sha256 hash;
};
bool safetensors_write_begin(struct safetensors_writer *writer, const char *path, struct safetensors_entry *entries,
                             int count, struct err *err);
bool safetensors_write(struct safetensors_writer *writer, const void *at, uint64_t bytes, struct err *err);
/* file_bytes and sha256 (65 characters with the NUL) may be NULL. */
bool safetensors_write_end(struct safetensors_writer *writer, uint64_t *file_bytes, char *sha256, struct err *err);
void safetensors_write_abort(struct safetensors_writer *writer); /* of a zeroed or ended writer: nothing */
