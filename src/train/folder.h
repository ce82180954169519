/* train/folder.h - folders that are complete once they have their name.
 *
 * A checkpoint or recovery point is filled under `<name>.tmp`, every file synced by its writer; folder_commit adds
 * MANIFEST, syncs the folder, renames it and syncs the parent. Whoever reads one calls folder_verify, which hashes
 * every file that MANIFEST lists, before it touches a tensor. */
#pragma once

#include "model/checkpoint.h"

struct folder_label {
    const char *job, *kind; /* kind: "full", "lora" or "recovery" */
    int64_t attempt, step;
};

/* An empty `<path>.tmp`; what an earlier try left is removed. ERR_NO_SPACE unless the disk has room for the bytes that
 * are to come, a tenth more, and what small files need meanwhile. */
bool folder_begin(struct arena *arena, const char *path, uint64_t bytes, const char **temporary, struct err *err);
void folder_abort(const char *temporary); /* a save that failed leaves nothing */
bool folder_commit(const char *temporary, const char *path, const struct folder_label *label,
                   const struct checkpoint_files *files, struct err *err);
/* The member "files" of MANIFEST and of events: [{name, bytes, sha256}]. */
void folder_put_files(struct json_writer *writer, const struct checkpoint_files *files);
bool folder_verify(const char *path, struct err *err);

/* Writes a small file into a folder under construction, synced, and adds it to `files` (which has room). */
bool folder_add_file(struct arena *arena, const char *temporary, const char *name, struct str content,
                     struct checkpoint_files *files, struct err *err);

/* "step-00000100" in the arena, and back; false for any other name. */
char *folder_step_name(struct arena *arena, int64_t step);
bool folder_step_parse(const char *name, int64_t *step);
