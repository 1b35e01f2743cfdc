//! Which machine runs which image.

use windlass_sdk::{Error, ErrorKind};

/// The architecture of `linux/amd64` or `linux/arm/v7`.
pub(crate) fn architecture(platform: &str) -> Result<&str, Error> {
    let mut parts = platform.split('/');
    match (parts.next(), parts.next()) {
        (Some(os), Some(architecture)) if !os.is_empty() && !architecture.is_empty() => {
            Ok(architecture)
        }
        _ => Err(Error::invalid(
            "docker-build.platform",
            format!("the platform {platform:?} is no OS/ARCHITECTURE"),
        )
        .with_hint("write it as `linux/amd64` or `linux/arm64`")),
    }
}

/// Refuses an image that one of the machines (name, architecture) cannot run.
pub(crate) fn check(image: &str, machines: &[(String, String)]) -> Result<(), Error> {
    let Some((name, machine)) = machines.iter().find(|(_, machine)| !runs(machine, image)) else {
        return Ok(());
    };
    let machine = common(machine);
    Err(Error::new(
        ErrorKind::Invalid,
        "docker-build.wrong-architecture",
        format!(
            "the image is for {}, and target {name} runs {machine}",
            common(image)
        ),
    )
    .with_hint(format!(
        "platform = \"linux/{machine}\"; or `for_targets = []` where the target emulates it"
    )))
}

fn runs(machine: &str, image: &str) -> bool {
    let (machine, image) = (common(machine), common(image));
    machine == image || (machine == "amd64" && image == "386")
}

/// The name that image configurations use (`GOARCH`), for what `uname` says.
fn common(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        "armv6l" | "armv7l" | "armhf" => "arm",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{architecture, check};

    fn machines(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(name, machine)| ((*name).into(), (*machine).into()))
            .collect()
    }

    #[test]
    fn both_sides_are_named() {
        let targets = machines(&[("a", "x86_64"), ("b", "aarch64")]);
        let error = check("amd64", &targets).unwrap_err();
        assert_eq!(
            error.message,
            "the image is for amd64, and target b runs arm64"
        );
        assert!(error.hint.unwrap().contains("platform = \"linux/arm64\""));
        assert!(check("arm64", &machines(&[("b", "arm64")])).is_ok());
        assert!(check("386", &machines(&[("a", "amd64")])).is_ok());
        assert!(check("amd64", &[]).is_ok());
    }

    #[test]
    fn platforms() {
        assert_eq!(architecture("linux/arm/v7").unwrap(), "arm");
        for bad in ["amd64", "linux/", "/amd64", ""] {
            assert!(architecture(bad).is_err(), "{bad}");
        }
    }
}
