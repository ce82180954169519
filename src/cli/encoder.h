/* cli/encoder.h - the encoder of a model's folder, for commands that show what data becomes. */
#pragma once

#include "base/arena.h"
#include "data/encode.h"

/* NULL with err set. The config lies in the arena; encoder_free. */
struct encoder *encoder_of_model(struct arena *arena, const char *folder, struct err *err);
