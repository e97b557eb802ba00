package org.pytorch.executorch;

import java.io.Closeable;
import java.io.File;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiFunction;

/**
 * Stands for the library's: says what was asked of it, and runs what it was told to. Outputs lie in the same memory at every run of
 * a method, as in the library's plan, so whoever keeps one without copying sees it change.
 */
public class Module implements Closeable {
    public static final List<String> LOG = new ArrayList<>();
    /** By file and method: inputs to outputs. */
    public static BiFunction<String, EValue[], float[][]> runs;
    /** By file and method: shapes of the outputs. */
    public static final Map<String, long[][]> SHAPES = new HashMap<>();
    /** The code that everything fails with, or 0; and the method that does. */
    public static int fails;
    public static String failing = "";
    public static DType gives = DType.FLOAT;

    private final String file;
    private final Map<String, float[][]> memory = new HashMap<>();
    private boolean valid = true;

    private Module(String file) {
        this.file = file;
    }

    public static Module load(String path, int mode, int threads) {
        String name = new File(path).getName();
        LOG.add("load " + name + " mode " + mode + " threads " + threads);
        if (failing.equals(name)) throw new ExecutorchRuntimeException(fails, "no " + name);
        return new Module(name);
    }

    private String key(String method) {
        if (!valid) throw new IllegalStateException("Module has been destroyed");
        String key = file + " " + method;
        if (!SHAPES.containsKey(key)) throw new IllegalArgumentException("method " + method + " does not exist for this module");
        if (failing.equals(key)) throw new ExecutorchRuntimeException(fails, "no " + key);
        return key;
    }

    public void loadMethod(String method) {
        LOG.add("method " + key(method));
    }

    public EValue[] execute(String method, EValue... inputs) {
        String key = key(method);
        float[][] made = runs.apply(key, inputs);
        float[][] kept = memory.computeIfAbsent(key, unused -> new float[made.length][]);
        EValue[] outputs = new EValue[made.length];
        for (int i = 0; i < made.length; i++) {
            if (kept[i] == null) kept[i] = new float[made[i].length];
            System.arraycopy(made[i], 0, kept[i], 0, made[i].length);
            outputs[i] = EValue.from(new Tensor(kept[i], SHAPES.get(key)[i], gives));
        }
        return outputs;
    }

    public void destroy() {
        LOG.add("destroy " + file);
        valid = false;
        for (float[][] each : memory.values()) for (float[] values : each) java.util.Arrays.fill(values, Float.NaN);
    }

    @Override
    public void close() {
        destroy();
    }
}
