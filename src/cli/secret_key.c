#include "cli/secret_key.h"

#include "os/file.h"

#include <stdlib.h>
#include <string.h>

enum { KEYS_BYTES_MAX = 4096 };
#define VARIABLE "ATTUNE_SECRET_KEY"

static bool read_descriptor(struct master_key *key, int fd, struct err *err)
{
    bool ok;

    key->from = "--secret-key-fd";
    ok = secret_read_fd(&key->text, fd, KEYS_BYTES_MAX, key->from, err);
    fd_close(&fd);
    return ok;
}

static bool read_variable(struct master_key *key)
{
    char *value = getenv(VARIABLE);

    if (!value || !*value)
        return false;
    key->from = VARIABLE;
    secret_set(&key->text, str_of(value));
    memory_erase(value, strlen(value));
    unsetenv(VARIABLE);
    return true;
}

static const char *standard_path(struct arena *arena)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (config && config[0] == '/')
        return path_join(arena, config, "attune/secret.key");
    return home && home[0] == '/' ? path_join(arena, home, ".config/attune/secret.key") : NULL;
}

/* The folder need not be there yet: the nearest that is counts. */
static bool lies_below(struct arena *arena, const char *path, const char *folder)
{
    const char *root = path_absolute(arena, folder, NULL), *place = NULL;
    char *above = str_copy(arena, str_of(path));

    while (root && !place && strrchr(above, '/')) {
        *strrchr(above, '/') = 0;
        place = path_absolute(arena, *above ? above : "/", NULL);
    }
    if (root && !place)
        place = path_absolute(arena, ".", NULL);
    return root && place && str_starts(str_of(place), str_of(root)) &&
           (place[strlen(root)] == 0 || place[strlen(root)] == '/');
}

bool master_key_find(struct master_key *key, struct arena *arena, const char *file, int fd, const char *data_dir,
                     struct err *err)
{
    *key = (struct master_key){0};
    if (fd >= 0)
        return read_descriptor(key, fd, err);
    if (!file && read_variable(key))
        return true;
    key->is_standard = !file;
    key->path = file ? file : standard_path(arena);
    key->from = key->path;
    if (key->path && lies_below(arena, key->path, data_dir))
        return err_set(err, ERR_INPUT,
                       "the master key %s lies in the data folder, which it protects: name another "
                       "place with --secret-key-file",
                       key->path);
    return true;
}

struct keyring *master_key_open(const struct master_key *key, bool may_make, struct err *err)
{
    if (secret_is_set(&key->text))
        return keyring_parse(secret_reveal(&key->text), key->from, err);
    if (key->path)
        return keyring_open_file(key->path, may_make, err);
    err_set(err, ERR_NOT_FOUND, "no place for a master key: HOME is not set; name a file with --secret-key-file");
    return NULL;
}

void master_key_wipe(struct master_key *key)
{
    secret_wipe(&key->text);
}
