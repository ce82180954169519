/* store/uploads.h - large files that arrive in parts: OpenAI's Uploads.
 *
 * An upload is pending until it is completed or cancelled, or until its time is over. Each part is a blob of its own
 * with a row here; the completion makes one file row of them and forgets the parts, in one transaction. Blobs are the
 * caller's to remove afterwards: one without a row is collected at the next start. */
#pragma once

#include "store/store.h"

#define STORE_UPLOAD_COLUMNS(X)                                                                                        \
    X(TEXT, id)                                                                                                        \
    X(TEXT, filename)                                                                                                  \
    X(TEXT, purpose)                                                                                                   \
    X(TEXT, mime_type)                                                                                                 \
    X(INTEGER, bytes)  /* what the parts must come to */                                                               \
    X(TEXT, status)    /* pending, completed, cancelled, expired */                                                    \
    X(TEXT, file_id)   /* of the file it became; NULL before */                                                        \
    X(INTEGER, file_seconds) /* how long that file lives; 0: for ever */                                               \
    X(INTEGER, created_ms)                                                                                             \
    X(INTEGER, expires_ms)

struct store_upload {
    STORE_UPLOAD_COLUMNS(STORE_FIELD)
};

#define STORE_PART_COLUMNS(X)                                                                                          \
    X(TEXT, id)                                                                                                        \
    X(TEXT, upload_id)                                                                                                 \
    X(INTEGER, bytes)

struct store_part {
    STORE_PART_COLUMNS(STORE_FIELD)
};

void store_id_upload(char id[STORE_ID_BYTES]); /* upload_<32 hex> */
void store_id_part(char id[STORE_ID_BYTES]);   /* part_<32 hex> */

bool store_upload_create(struct store *store, const struct tenant *tenant, const struct store_upload *upload,
                         struct err *err);
/* A pending one whose time is over comes back as expired. */
bool store_upload_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                      struct store_upload *upload, struct err *err);

/* ERR_CONFLICT when the upload is not pending any more. */
bool store_part_create(struct store *store, const struct tenant *tenant, const struct store_part *part,
                       struct err *err);
/* ERR_NOT_FOUND when the upload has no such part. */
bool store_part_get(struct store *store, const struct tenant *tenant, const char *upload_id, const char *id,
                    struct arena *arena, struct store_part *part, struct err *err);
/* Ids of all parts of an upload, for the removal of their blobs. */
bool store_part_ids(struct store *store, const struct tenant *tenant, const char *upload_id, struct arena *arena,
                    const char ***ids, size_t *count, struct err *err);

/* Both end a pending upload and forget its parts; ERR_CONFLICT when it is not pending. Completion stores the file. */
bool store_upload_complete(struct store *store, const struct tenant *tenant, const char *id,
                           const struct store_file *file, struct err *err);
bool store_upload_cancel(struct store *store, const struct tenant *tenant, const char *id, struct err *err);

/* What has outlived its time, of all tenants: pending uploads become expired and lose their parts, files lose their
 * rows, answers kept for Idempotency-Key go after a day. ids: the blobs that nothing refers to any more. */
bool store_expire(struct store *store, int64_t now_ms, struct arena *arena, const char ***ids, size_t *count,
                  struct err *err);
