package org.pytorch.executorch;

/** A view: what it shows changes when its owner runs again. */
public class Tensor {
    final Object data; // float[] or long[]
    private final long[] shape;
    private final DType type;

    Tensor(Object data, long[] shape, DType type) {
        this.data = data;
        this.shape = shape;
        this.type = type;
    }

    public static Tensor fromBlob(float[] data, long[] shape) {
        return new Tensor(data, shape, DType.FLOAT);
    }

    public static Tensor fromBlob(long[] data, long[] shape) {
        return new Tensor(data, shape, DType.INT64);
    }

    public long[] shape() {
        return shape.clone();
    }

    public DType dtype() {
        return type;
    }

    public float[] getDataAsFloatArray() {
        return ((float[]) data).clone();
    }

    public long[] getDataAsLongArray() {
        return ((long[]) data).clone();
    }

    public int[] getDataAsIntArray() {
        throw new IllegalStateException("no int32 here");
    }

    public byte[] getDataAsUnsignedByteArray() {
        throw new IllegalStateException("no uint8 here");
    }
}
