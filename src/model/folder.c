#include "model/checkpoint_int.h"

#include <string.h>

/* Weights in any format, and what is no plain file for users. */
static bool is_copied(const char *folder, const char *name, struct arena *arena)
{
    static const char *const weights[] = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"};
    struct str text = str_of(name);

    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (str_ends(text, str_of(weights[i])))
            return false;
    return name[0] != '.' && strcmp(name, "MANIFEST") != 0 && !dir_exists(path_join(arena, folder, name));
}

bool folder_copy_others(struct arena *arena, const char *from, const char *to, struct err *err)
{
    char **names;
    size_t count;

    if (!dir_list(arena, from, &names, &count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        if (is_copied(from, names[i], arena) &&
            !file_copy(path_join(arena, from, names[i]), path_join(arena, to, names[i]), err))
            return false;
    return true;
}
