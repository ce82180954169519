/* cli/secret_key.h - where the master key of a server is.
 *
 * In this order: the descriptor of --secret-key-fd, the file of --secret-key-file, the environment variable
 * ATTUNE_SECRET_KEY (which is emptied when it is read: children do not inherit it and /proc does not show it), the file
 * attune/secret.key in the user's configuration folder ($XDG_CONFIG_HOME or ~/.config). Never in the data folder: a
 * copy of that alone opens nothing. */
#pragma once

#include "store/keyring.h"

struct master_key {
    const char *path; /* of the file; NULL: text has the keys, or there is no place for a file */
    bool is_standard; /* nobody named it */
    struct secret text;
    const char *from; /* for messages */
};

/* fd -1: none; it is closed. ERR_INPUT when the file would lie below data_dir. */
bool master_key_find(struct master_key *key, struct arena *arena, const char *file, int fd, const char *data_dir,
                     struct err *err);
struct keyring *master_key_open(const struct master_key *key, bool may_make, struct err *err);
void master_key_wipe(struct master_key *key);
