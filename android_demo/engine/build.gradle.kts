import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("org.jetbrains.kotlin.jvm")
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

kotlin {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_1_8)
        allWarningsAsErrors.set(true)
        progressiveMode.set(true)
        freeCompilerArgs.add("-Xjdk-release=1.8") // whatever Java runs Gradle: newer ones deprecate what Android has
    }
}

// The golden vectors are those that `make android-test` writes.
tasks.test {
    environment("ECHOEDGE_VECTORS", rootProject.file("../out/vectors").path)
}

dependencies {
    testImplementation("junit:junit:4.13.2")
}
