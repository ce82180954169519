/* store/blobs.h - the bytes behind file rows: files/<id> in the data folder.
 *
 * A blob is written under tmp/ and appears under its id, whole and synced, at commit; only then the row is created. A
 * delete goes the other way: row first, then blob. What a crash leaves between the two is an orphan without a row, and
 * blobs_collect removes it at start. Users' names never reach the disk: ids are the server's. */
#pragma once

#include "base/err.h"
#include "store/disk.h"
#include "store/store.h"

#include <stdint.h>

struct blobs;

/* Any thread may call what concerns one blob or one put, but for one put only one at a time. */

/* Makes files/ and tmp/ and empties tmp/. */
struct blobs *blobs_open(const char *data_dir, struct err *err);
void blobs_close(struct blobs *blobs);

/* One upload: put_begin, put_add any number of times, then put_commit or put_abort, which both free it. */
struct blob_put;
struct blob_put *blob_put_begin(struct blobs *blobs, struct err *err);
/* Before the first byte: the blob takes no more of the disk than is free for it, or ERR_NO_SPACE, now or from
 * blob_put_add. bytes are how many it will have; -1: not known, then room is promised as they come. */
bool blob_put_promise(struct blob_put *put, struct disk *disk, int64_t bytes, struct err *err);
bool blob_put_add(struct blob_put *put, const void *at, size_t bytes, struct err *err);
uint64_t blob_put_bytes(const struct blob_put *put);
/* The blob is durable under `id` (store_id_file, store_id_part); sha256_hex gets its hash. On failure nothing is
 * left. */
bool blob_put_commit(struct blob_put *put, const char *id, char sha256_hex[65], struct err *err);
void blob_put_abort(struct blob_put *put); /* NULL is fine */

/* A descriptor to read from (pread, sendfile) and its size; -1 on failure. The caller closes it. */
int blob_open(struct blobs *blobs, const char *id, uint64_t *bytes, struct err *err);
/* Where blobs lie, each under its id. */
const char *blobs_dir(const struct blobs *blobs);
/* The blob at `path`: a hard link, or a copy across file systems. path must not exist. */
bool blob_stage_to_path(struct blobs *blobs, const char *id, const char *path, struct err *err);
/* A new blob `id` that shares the bytes of the file at `path`; durable after blobs_sync, which serves any number. */
bool blob_link_from_path(struct blobs *blobs, const char *id, const char *path, struct err *err);
bool blobs_sync(struct blobs *blobs, struct err *err);
/* The blob under another id; what had that goes. */
bool blob_rename(struct blobs *blobs, const char *id, const char *new_id, struct err *err);
bool blob_remove(struct blobs *blobs, const char *id, struct err *err); /* absent is fine */

/* Removes blobs without a row. Only before the server takes requests. */
bool blobs_collect(struct blobs *blobs, struct store *store, size_t *removed, struct err *err);
