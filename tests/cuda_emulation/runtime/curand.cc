// cuRAND's generators: Mersenne twisters, with cuRAND's ranges but other numbers than a real device draws.
#include "curand.h"

#include <random>

#include "emulation.h"

struct curandGenerator_st {
    std::mt19937_64 bits{0};
};

namespace {

// uniform in (0, 1], as cuRAND's
template <class T>
struct Uniform {
    T operator()(std::mt19937_64& bits) const { return (T)((double)((bits() >> 40) + 1) / (1 << 24)); }
};

template <class T, class Draw>
curandStatus_t fill(curandGenerator_t generator, T* values, size_t count, Draw draw) {
    if (!emulationOnDevice(values, count * sizeof(T)))
        emulationFail("cuRAND: %zu numbers do not fit the memory they are for", count);
    emulation::DeviceWorks works;
    emulationCount(emulation::RANDOM, 1);
    for (size_t i = 0; i < count; i++) values[i] = draw(generator->bits);
    return CURAND_STATUS_SUCCESS;
}

template <class T>
curandStatus_t normal(curandGenerator_t generator, T* values, size_t count, T mean, T stddev) {
    if (count % 2) return CURAND_STATUS_LENGTH_NOT_MULTIPLE;  // it makes pairs
    return fill(generator, values, count, std::normal_distribution<T>(mean, stddev));
}

}  // namespace

EMULATION_API curandStatus_t curandCreateGenerator(curandGenerator_t* generator, curandRngType_t) {
    return *generator = new curandGenerator_st, CURAND_STATUS_SUCCESS;
}
EMULATION_API curandStatus_t curandDestroyGenerator(curandGenerator_t generator) {
    return delete generator, CURAND_STATUS_SUCCESS;
}
EMULATION_API curandStatus_t curandSetStream(curandGenerator_t, cudaStream_t) { return CURAND_STATUS_SUCCESS; }
EMULATION_API curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator, unsigned long long seed) {
    return generator->bits.seed(seed), CURAND_STATUS_SUCCESS;
}
EMULATION_API curandStatus_t curandGenerateUniform(curandGenerator_t generator, float* values, size_t count) {
    return fill(generator, values, count, Uniform<float>());
}
EMULATION_API curandStatus_t curandGenerateUniformDouble(curandGenerator_t generator, double* values, size_t count) {
    return fill(generator, values, count, Uniform<double>());
}
EMULATION_API curandStatus_t curandGenerateNormal(curandGenerator_t generator, float* values, size_t count, float mean,
                                                  float stddev) {
    return normal(generator, values, count, mean, stddev);
}
EMULATION_API curandStatus_t curandGenerateNormalDouble(curandGenerator_t generator, double* values, size_t count,
                                                        double mean, double stddev) {
    return normal(generator, values, count, mean, stddev);
}
