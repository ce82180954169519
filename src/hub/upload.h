/* hub/upload.h - puts files into a model repository of a Hub, in one commit.
 *
 * What the repository has already is looked at first: files that are the same there are left out, and when all are, the
 * newest commit is the result. So an upload that was killed, or whose last answer was lost, is simply begun again.
 * Large files go to the Hub's store as Git LFS has it, whole or in parts; what the store has is not sent twice, and
 * parts that arrived are noted in a file, so that only the others are sent by the next one. The commit names the one
 * that it was compared with, and the Hub refuses it when there is a newer one. */
#pragma once

#include "hub/wire.h"

struct hub_outgoing {
    const char *path;   /* in the repository */
    const char *place;  /* on the disk; NULL: content */
    struct str content;
    uint64_t bytes;
    char sha256[65];
    bool is_large, is_there; /* as the Hub says; set by hub_upload */
};

struct hub_upload {
    struct hub_wire *wire;
    const char *repo; /* "owner/name" */
    const char *summary;
    const char *parts_path; /* where parts that arrived are noted: a file of mode 0600; NULL: nowhere */
    struct hub_outgoing *files;
    size_t file_count;
    const char *commit; /* the result */
    bool is_new;        /* that commit is of this call */
};

/* "owner/name": a name without an owner is one of the token's user, whom the Hub is asked for. */
const char *hub_repository_find(struct hub_wire *wire, const char *name, struct err *err);
/* Makes it, private; one that is there stays as it is. */
bool hub_repository_create(struct hub_wire *wire, const char *repo, struct err *err);

bool hub_upload(struct hub_upload *upload, struct err *err);

/* hub/lfs.c: the file is in the repository's store, under its hash. */
bool hub_lfs_send(struct hub_upload *upload, const struct hub_outgoing *file, struct err *err);
