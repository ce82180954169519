/* Runs LLVMFuzzerTestOneInput on every file of a folder: the corpus as an ordinary test. */
#include "os/file.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    struct arena arena = {0};
    struct err err = {0};
    char **names;
    size_t count;

    if (argc != 2 || !dir_list(&arena, argv[1], &names, &count, &err))
        die("corpus folder: %s", err.text);
    for (size_t i = 0; i < count; i++) {
        struct str bytes;
        if (!file_read(&arena, path_join(&arena, argv[1], names[i]), 64 << 20, &bytes, &err))
            die("%s", err.text);
        LLVMFuzzerTestOneInput((const uint8_t *)bytes.at, bytes.len);
    }
    printf("%zu inputs, no fault\n", count);
    arena_deinit(&arena);
    return count > 0 ? 0 : 1;
}
