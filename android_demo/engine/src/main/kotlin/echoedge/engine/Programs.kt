package echoedge.engine

/** What [Programs] take and give: a shape and so many numbers, row by row. An engine may keep its own kind where it computes. */
interface Tensor {
    val shape: List<Int>

    /** One number by its place in the row-major order. */
    fun number(index: Int): Double

    /**
     * The numbers as single precision.
     *
     * @throws EngineException they are of another type.
     */
    fun floats(): FloatArray = throw EngineException("A ${this::class.java.simpleName} of shape $shape does not hold floats.")
}

/** How many numbers a shape has. */
fun sizeOf(shape: List<Int>): Int = shape.fold(1) { product, side -> Math.multiplyExact(product, side) }

/** float32 numbers of a shape, row by row. */
class Floats(override val shape: List<Int>, val values: FloatArray) : Tensor {
    init {
        if (sizeOf(shape) != values.size) throw EngineException("A tensor of shape $shape has ${values.size} numbers.")
    }

    override fun floats(): FloatArray = values

    override fun number(index: Int): Double = values[index].toDouble()

    companion object {
        /** Of sizes and numbers. */
        fun of(values: FloatArray, vararg shape: Int): Floats = Floats(shape.toList(), values)

        /** Zeros of a shape. */
        fun zeros(shape: List<Int>): Floats = Floats(shape, FloatArray(sizeOf(shape)))
    }
}

/** int64 numbers of a shape, row by row: ids of a text. */
class Longs(override val shape: List<Int>, val values: LongArray) : Tensor {
    override fun number(index: Int): Double = values[index].toDouble()
}

/** uint8 numbers of a shape, row by row: recorded frames. */
class Bytes(override val shape: List<Int>, val values: ByteArray) : Tensor {
    override fun number(index: Int): Double = (values[index].toInt() and 0xFF).toDouble()
}

/**
 * Whatever runs a bundle's compiled programs: the one thing that a player needs of a platform. Called from one thread at a time.
 *
 * A program's file is [Program.path], which several programs may share; its method M is called [Program.prefix] + M there.
 */
interface Programs {
    /**
     * Has a program ready to run; what is ready stays so.
     *
     * @throws EngineException it cannot be loaded.
     * @throws ResourceException there is too little memory.
     */
    fun load(program: Program)

    /**
     * Runs a method on tensors by name, those that the manifest lists for it, and gives its outputs by name. They stay what they are
     * when it runs again.
     *
     * @throws EngineException it fails.
     */
    fun run(program: Program, method: String, inputs: Map<String, Tensor>): Map<String, Tensor>

    /** Gives back what a program holds; it can be loaded again. */
    fun free(program: Program)
}

/**
 * The inputs that a method takes, in its order, of those that are [given] by name.
 *
 * @throws EngineException the program has no such method, or an input is missing or of another shape or type.
 */
fun Program.take(method: String, given: Map<String, Tensor>): Map<String, Tensor> {
    val specs = methods[method] ?: throw EngineException("$name has no method '$method'. It has: ${methods.keys.joinToString()}.")
    val chosen = HashMap<String, Int>()
    return specs.inputs.associate { spec ->
        val tensor = given[spec.name] ?: throw EngineException("$name.$method takes $spec, which was not given.")
        val fits = spec.shape.size == tensor.shape.size && spec.shape.zip(tensor.shape).all { (wanted, found) ->
            found == (wanted.size ?: chosen.getOrPut(wanted.name.orEmpty()) { found })
        }
        if (!fits || (spec.dtype == "int64") != (tensor is Longs)) {
            throw EngineException("$name.$method takes $spec, not ${tensor::class.java.simpleName} ${tensor.shape}.")
        }
        spec.name to tensor
    }
}
