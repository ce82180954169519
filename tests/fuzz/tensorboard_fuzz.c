/* What is kept of an event file is a prefix that reads the same alone, and no step above the bound. */
#include "train/tensorboard.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str file = {(const char *)data, size};
    size_t all = tensorboard_prefix(file, INT64_MAX), some = tensorboard_prefix(file, 3);

    if (all > size || some > all || tensorboard_prefix(str_slice(file, 0, some), 3) != some)
        abort();
    return 0;
}
