#include "cli/encoder.h"
#include "model/config.h"
#include "os/clock.h"

struct encoder *encoder_of_model(struct arena *arena, const char *folder, struct err *err)
{
    struct model_config config;
    struct encoder_options options = {.folder = folder, .now = clock_unix(), .eos_id = -1};

    if (!config_read(arena, folder, &config, err))
        return NULL;
    options.vocab = config.vocab;
    if (config.eos_count > 0)
        options.eos_id = config.eos_ids[0];
    return encoder_open(&options, err);
}
