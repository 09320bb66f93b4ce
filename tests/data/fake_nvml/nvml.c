/* A libnvidia-ml that says what a text file says: the driver's side of tests/test_node_facts_nvml.py.
 *
 * The file is METAINF_FAKE_NVML, or "nvml.conf" beside the library, and is read at each start, so that GPUs come and
 * go between two looks. A line is a key, a blank, and a value:
 *
 *     driver 580.65.06             what nvmlSystemGetDriverVersion says
 *     cuda 13000                   13.0
 *     error.nvmlInitWithFlags 18   the NVML error that a function gives; gpu.0.error.FUNCTION for one GPU alone
 *     hang 1                       nvmlInitWithFlags never comes back
 *     gpu.0.name NVIDIA H100 80GB HBM3
 *     gpu.0.mig.3.name ...         a slice, in the fourth place
 *
 * What a GPU has no line for is not supported, as the driver says of facts that a GPU does not have. Function names,
 * error codes and the layout of structures are NVML's: pynvml calls these as it would call NVIDIA's own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum { GPUS = 16, PLACES = 8, LINES = 1024 };

typedef struct { int gpu; int slice; } *Device; /* slice is -1 for a whole GPU */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} Pci;
typedef struct {
    unsigned multiprocessors, copy, decoder, encoder, jpeg, ofa, gi_slices, ci_slices;
    unsigned long long memory_mib;
} Attributes;
typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    int type, result;
    union { double d; unsigned ui; unsigned long long ull; } value;
} Field;

static char keys[LINES][96], values[LINES][256];
static int lines;
static struct { int gpu, slice; } devices[GPUS][PLACES + 1];

static const char *find(const char *key)
{
    for (int i = 0; i < lines; i++)
        if (!strcmp(keys[i], key))
            return values[i];
    return NULL;
}

static int code(const char *function)
{
    char key[128];
    snprintf(key, sizeof key, "error.%s", function);
    const char *value = find(key);
    return value ? atoi(value) : OK;
}

/* The value of a device's fact; NULL where it has none, and *result says why. */
static const char *fact(Device device, const char *name, const char *function, int *result)
{
    char key[160], error[160];
    snprintf(error, sizeof error, "gpu.%d.error.%s", device->gpu, function);
    *result = code(function);
    if (!*result && find(error))
        *result = atoi(find(error));
    if (*result)
        return NULL;
    if (device->slice < 0)
        snprintf(key, sizeof key, "gpu.%d.%s", device->gpu, name);
    else
        snprintf(key, sizeof key, "gpu.%d.mig.%d.%s", device->gpu, device->slice, name);
    const char *value = find(key);
    *result = value ? OK : NOT_SUPPORTED;
    return value;
}

static int number(Device device, const char *name, const char *function, unsigned *out)
{
    int result;
    const char *value = fact(device, name, function, &result);
    if (value)
        *out = (unsigned)strtoul(value, NULL, 0);
    return result;
}

static void read_file(void)
{
    char beside[4096], line[512];
    const char *path = getenv("METAINF_FAKE_NVML");
    Dl_info info;
    if (!path && dladdr((void *)read_file, &info)) {
        snprintf(beside, sizeof beside, "%s", info.dli_fname);
        char *slash = strrchr(beside, '/');
        snprintf(slash ? slash + 1 : beside, sizeof beside - (slash ? slash + 1 - beside : 0), "nvml.conf");
        path = beside;
    }
    lines = 0;
    FILE *file = path ? fopen(path, "r") : NULL;
    while (file && lines < LINES && fgets(line, sizeof line, file))
        if (sscanf(line, "%95s %255[^\n]", keys[lines], values[lines]) == 2)
            lines++;
    if (file)
        fclose(file);
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    read_file();
    for (int gpu = 0; gpu < GPUS; gpu++)
        for (int place = 0; place <= PLACES; place++) {
            devices[gpu][place].gpu = gpu;
            devices[gpu][place].slice = place - 1;
        }
    while (find("hang"))
        sleep(1);
    if (find("abort"))
        abort();
    return code("nvmlInitWithFlags");
}

int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *out, unsigned length)
{
    snprintf(out, length, "%s", find("driver") ? find("driver") : "580.65.06");
    return code(__func__);
}

int nvmlSystemGetCudaDriverVersion(int *out)
{
    *out = find("cuda") ? atoi(find("cuda")) : 13000;
    return code(__func__);
}

int nvmlDeviceGetCount_v2(unsigned *out)
{
    char key[32];
    unsigned count = 0;
    for (; count < GPUS; count++) {
        snprintf(key, sizeof key, "gpu.%u.name", count);
        if (!find(key))
            break;
    }
    *out = count;
    return code(__func__);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *out)
{
    int result;
    *out = (Device)&devices[index][0];
    fact(*out, "name", __func__, &result);
    return result;
}

int nvmlDeviceGetName(Device device, char *out, unsigned length)
{
    int result;
    const char *value = fact(device, "name", __func__, &result);
    if (value)
        snprintf(out, length, "%s", value);
    return result;
}

int nvmlDeviceGetMemoryInfo(Device device, Memory *out)
{
    int result;
    const char *value = fact(device, "memory-bytes", __func__, &result);
    memset(out, 0, sizeof *out);
    if (value)
        out->total = strtoull(value, NULL, 0);
    return result;
}

int nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor)
{
    int result;
    const char *value = fact(device, "compute", __func__, &result);
    if (value)
        sscanf(value, "%d.%d", major, minor);
    return result;
}

int nvmlDeviceGetPciInfo_v3(Device device, Pci *out)
{
    int result;
    const char *value = fact(device, "bus-id", __func__, &result);
    memset(out, 0, sizeof *out);
    if (value)
        snprintf(out->bus_id, sizeof out->bus_id, "%s", value);
    return result;
}

int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending)
{
    int result = number(device, "mig-mode", __func__, current);
    *pending = *current;
    return result;
}

int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *out)
{
    (void)device;
    *out = PLACES;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *out)
{
    int result;
    *out = (Device)&devices[device->gpu][index + 1];
    return fact(*out, "name", __func__, &result) ? OK : result == NOT_SUPPORTED ? NOT_FOUND : result;
}

int nvmlDeviceGetAttributes_v2(Device device, Attributes *out)
{
    int result;
    const char *value = fact(device, "attributes", __func__, &result);
    memset(out, 0, sizeof *out);
    if (value) /* memory in MiB, multiprocessors, slices (gi, ci), engines (copy, decoder, encoder, jpeg, ofa) */
        sscanf(value, "%llu %u %u %u %u %u %u %u %u", &out->memory_mib, &out->multiprocessors, &out->gi_slices,
               &out->ci_slices, &out->copy, &out->decoder, &out->encoder, &out->jpeg, &out->ofa);
    return result;
}

int nvmlDeviceGetMaxClockInfo(Device device, int type, unsigned *out)
{
    return number(device, type == 2 ? "memory-clock" : type == 1 ? "sm-clock" : "graphics-clock", __func__, out);
}

int nvmlDeviceGetNvLinkState(Device device, unsigned link, unsigned *out)
{
    char name[64];
    unsigned links = 0;
    int result = number(device, "nvlinks", __func__, &links);
    if (result)
        return result;
    if (link >= links)
        return INVALID_ARGUMENT;
    snprintf(name, sizeof name, "nvlink.%u.down", link);
    int unused;
    *out = fact(device, name, __func__, &unused) ? 0 : 1;
    return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device device, unsigned link, Pci *out)
{
    char name[64];
    int result;
    snprintf(name, sizeof name, "nvlink.%u.remote", link);
    const char *value = fact(device, name, __func__, &result);
    memset(out, 0, sizeof *out);
    if (value)
        snprintf(out->bus_id, sizeof out->bus_id, "%s", value);
    return result;
}

int nvmlDeviceGetFieldValues(Device device, int count, Field *fields)
{
    for (int i = 0; i < count; i++) {
        fields[i].result = NOT_SUPPORTED;
        if (fields[i].field == 90) /* speed of the NVLinks, common to all */
            fields[i].result = number(device, "nvlink-mbps", __func__, &fields[i].value.ui);
    }
    return code(__func__);
}

#define NUMBER(function, name) \
    int function(Device device, unsigned *out) { return number(device, name, __func__, out); }

NUMBER(nvmlDeviceGetMemoryBusWidth, "memory-bus")
NUMBER(nvmlDeviceGetNumGpuCores, "cores")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power-limit-mw")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power-default-mw")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie-generation")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie-width")

int nvmlDeviceGetNvLinkVersion(Device device, unsigned link, unsigned *out)
{
    (void)link;
    return number(device, "nvlink-version", __func__, out);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Device device, unsigned link, unsigned *out)
{
    (void)link;
    return number(device, "nvlink-remote-type", __func__, out);
}
