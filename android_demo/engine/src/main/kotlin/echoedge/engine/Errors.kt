package echoedge.engine

/** Base of every error that a user can cause and mend. The message quotes the bad value and says what to do next. */
open class EchoEdgeException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** A clip, plan or option has a value that cannot work. */
class ConfigException(message: String) : EchoEdgeException(message)

/** A picture, a sound or a prompt cannot be used. */
class InputException(message: String) : EchoEdgeException(message)

/** A bundle is missing, incomplete, altered or of an unknown format. */
class BundleException(message: String, cause: Throwable? = null) : EchoEdgeException(message, cause)

/** Programs cannot be run here, or were called with other tensors than they take. */
class EngineException(message: String, cause: Throwable? = null) : EchoEdgeException(message, cause)

/** Too little memory or disk for what was asked. */
class ResourceException(message: String) : EchoEdgeException(message)

/** Whoever asked for a clip does not want it any more; nothing of it is kept. */
class CancelledException : EchoEdgeException("The clip was cancelled. Start it again when you like.")

/** A text for messages: what is longer than 120 characters is cut. */
fun short(text: String): String = if (text.length <= 120) text else text.take(120) + "…"
