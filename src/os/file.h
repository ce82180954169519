/* os/file.h - files, descriptors, folders, disks and paths.
 *
 * Paths are NUL-terminated and go to the system as they are; every message names the path as it was given and says what
 * was attempted. ERR_NOT_FOUND: there is nothing there; ERR_NO_SPACE: no room, or the quota; ERR_IO: anything else the
 * system says. Descriptors are opened close-on-exec and are -1 on failure. A call that a signal interrupts goes on.
 *
 * What is durable says so: file_replace, file_write_secret, file_copy and file_rename; after the others a power cut may
 * take what was written. file.c has whole files and names, fd.c descriptors, folder.c folders, disks and paths. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

/* --- whole files --- */

/* A whole file mapped read-only. An empty file gives data "" and bytes 0. What is no regular file is refused. */
struct mapped_file {
    const void *data;
    size_t bytes;
    int fd;
};
bool file_map(struct mapped_file *file, const char *path, struct err *err);
void file_unmap(struct mapped_file *file); /* of a zeroed struct: nothing */
/* Part of a mapped file that will hardly be read again: its whole pages leave the process's memory, and come back when
 * they are read. */
void file_let_go(const void *part, size_t bytes);

/* Whole file into the arena, NUL-terminated; ERR_LIMIT above bytes_max. */
bool file_read(struct arena *arena, const char *path, size_t bytes_max, struct str *text, struct err *err);

/* Durable replacement: temporary name beside it, write, fsync, rename, fsync of the folder. Readers see the old content
 * or the new, never a mixture. Not for two threads and one path: the temporary name is the process's. */
bool file_replace(const char *path, struct str content, struct err *err);
/* The same for what a power cut may take: readers see old or new, but nothing is synced. */
bool file_swap(const char *path, struct str content, struct err *err);
/* Durable, with mode 0600. Unless may_replace, a file that is there stays: ERR_CONFLICT. */
bool file_write_secret(const char *path, struct str content, bool may_replace, struct err *err);

/* SHA-256 of the content in hexadecimal. go_on (optional) is asked every few MiB; false ends with ERR_CANCELLED. */
bool file_sha256(const char *path, uint64_t *bytes, char hex[65], bool (*go_on)(void *context), void *context,
                 struct err *err);

bool file_exists(const char *path); /* as a regular file, or a link to one */
bool file_size(const char *path, uint64_t *bytes, struct err *err);
int64_t file_changed_at(const char *path); /* Unix seconds; 0: it is not there */

bool file_rename(const char *from, const char *to, struct err *err); /* fsyncs the folder of `to` */
/* A hard link, or a copy where there can be none, across file systems above all. */
bool file_link(const char *from, const char *to, struct err *err);
/* A symbolic link at path to a relative target, in place of what is there. Makes nothing durable. */
bool file_symlink(const char *target, const char *path, struct err *err);
/* The content is synced, its name is not. Nothing stays at `to` of a copy that failed. */
bool file_copy(const char *from, const char *to, struct err *err);
bool file_remove(const char *path, struct err *err); /* absent is fine */

/* --- descriptors --- */

int file_open_read(const char *path, struct err *err);
int file_create(const char *path, struct err *err);        /* truncates, mode 0644 */
int file_create_secret(const char *path, struct err *err); /* a new file, mode 0600; one that is there goes */
int file_open_append(const char *path, struct err *err);   /* creates */
int file_open_update(const char *path, struct err *err);   /* creates, truncates nothing, mode 0644 */
/* Creates the file and takes the exclusive lock on it, for as long as the descriptor is open. -1 with ERR_CONFLICT when
 * another process has it, and has not ended within a second: a child that waits for its first order holds what its dead
 * parent held until it sees that. */
int file_lock(const char *path, struct err *err);
void fd_close(int *fd); /* sets -1 */

bool fd_write_all(int fd, const void *at, size_t bytes, const char *path, struct err *err);
/* Up to `bytes` at `offset`; *got is less only at the end of the file. */
bool fd_pread(int fd, void *at, size_t bytes, uint64_t offset, size_t *got, const char *path, struct err *err);
bool fd_pwrite_all(int fd, const void *at, size_t bytes, uint64_t offset, const char *path, struct err *err);
/* The disk keeps room for so many bytes from the file's beginning; its size stays. ERR_NO_SPACE when there is none;
 * file systems that cannot do it are left to find out while writing. */
bool fd_reserve(int fd, uint64_t bytes, const char *path, struct err *err);
bool fd_cut(int fd, uint64_t bytes, const char *path, struct err *err); /* what is behind so many bytes goes */
/* Begins to write a range of the file to the disk and waits for the range of that length before it: a large file
 * reaches the disk as it comes, not all at its sync, behind which the syncs of others would wait. Makes nothing
 * durable. */
void fd_push(int fd, uint64_t offset, uint64_t bytes);
bool fd_sync(int fd, const char *path, struct err *err);
/* ERR_INPUT when anybody but its owner may read or write the file. */
bool fd_is_private(int fd, const char *path, struct err *err);
bool fd_is_removed(int fd); /* the file has no name any more */

/* What is there now, of a pipe or socket: bytes read, 0 at the end, -1 when nothing is there yet or `bytes` could not
 * be taken, -2 when it is broken. fd_write_some never raises SIGPIPE's default: the program ignores it. */
long fd_read_some(int fd, void *at, size_t bytes);
long fd_write_some(int fd, const void *at, size_t bytes);
bool fd_set_nonblocking(int fd, struct err *err);
/* Whether something can be read within timeout_ms (-1: for ever). */
bool fd_wait_readable(int fd, int timeout_ms);
bool fd_pipe(int ends[2], struct err *err); /* read from [0], write to [1] */
/* A file without a name, in memory alone, that is read from its beginning: unlike a pipe it takes everything at
 * once. */
int fd_in_memory(const char *name, struct str content, struct err *err);

/* --- folders --- */

bool dir_exists(const char *path);
bool dir_make(const char *path, struct err *err); /* with parents; existing is fine */
bool dir_make_last(const char *path, struct err *err); /* the same, of a folder whose parent is there */
bool dir_sync(const char *path, struct err *err); /* makes renames inside durable */
/* With everything in it; absent is fine; symbolic links are not followed. */
bool dir_remove(const char *path, struct err *err);
/* Names in byte order without "." and "..". */
bool dir_list(struct arena *arena, const char *path, char ***names, size_t *count, struct err *err);
/* Bytes that the disk gives to everything in the folder, sparse and short files as they lie there; absent is 0. A file
 * with several names there counts for each. */
bool dir_bytes(const char *path, uint64_t *bytes, struct err *err);

/* --- the disk below a path --- */

/* Free bytes for an unprivileged user on the file system that holds path. */
bool disk_free(const char *path, uint64_t *bytes, struct err *err);
/* Bytes that an unprivileged user could have there if it was empty: what is kept for root counts as used. */
bool disk_size(const char *path, uint64_t *bytes, struct err *err);
/* Makes everything on the file system that holds the folder durable. */
bool disk_sync(const char *path, struct err *err);

/* --- paths --- */

/* "a/b" in the arena. */
char *path_join(struct arena *arena, const char *folder, const char *name);
/* The same place by an absolute path without symbolic links; NULL with err set when it does not exist. */
char *path_absolute(struct arena *arena, const char *path, struct err *err);
/* Whether both lie on one file system; false when one of them is not there. */
bool path_is_same_disk(const char *a, const char *b);
/* Text behind the last slash. */
const char *path_name(const char *path);
