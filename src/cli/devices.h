/* cli/devices.h - the GPUs of this machine, one a line on standard output; or why there is none. */
#pragma once

void print_gpus(void);
void print_gpu(int index);
