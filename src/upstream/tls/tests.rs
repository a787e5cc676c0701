//! What a failed connection means.

use super::*;

/// As the HTTP client hands it over: wrapped, and wrapped again.
fn wrapped(error: impl Error + Send + Sync + 'static) -> LinkFault {
    explain(&io::Error::other(io::Error::other(error)))
}

fn code(fault: &LinkFault) -> (&'static str, &'static str) {
    match fault {
        LinkFault::Unreached(trouble) => ("unreached", trouble.code),
        LinkFault::Away(trouble) => ("away", trouble.code),
        LinkFault::Cut(trouble) => ("cut", trouble.code),
        LinkFault::Distrust(trouble) => ("distrust", trouble.code),
    }
}

#[test]
fn tls_faults_say_whose_certificate_is_wrong_and_in_what() {
    use rustls::Error as E;
    let certificate = E::InvalidCertificate;
    for (error, expected) in [
        (certificate(CertificateError::UnknownIssuer), "unknown_ca"),
        (certificate(CertificateError::NotValidForName), "wrong_name"),
        (certificate(CertificateError::Expired), "receiver_certificate_expired"),
        (certificate(CertificateError::NotValidYet), "receiver_certificate_not_yet_valid"),
        (certificate(CertificateError::Revoked), "receiver_certificate_revoked"),
        (certificate(CertificateError::BadEncoding), "receiver_certificate_bad"),
        (E::AlertReceived(AlertDescription::CertificateRequired), "own_certificate_refused"),
        (E::AlertReceived(AlertDescription::UnknownCA), "own_certificate_refused"),
        (E::AlertReceived(AlertDescription::CertificateExpired), "own_certificate_refused"),
        (E::AlertReceived(AlertDescription::CertificateRevoked), "own_certificate_refused"),
        (E::AlertReceived(AlertDescription::ProtocolVersion), "tls_version"),
        (E::AlertReceived(AlertDescription::DecodeError), "tls_alert"),
        (E::DecryptError, "not_tls"),
    ] {
        assert_eq!(code(&wrapped(error.clone())), ("distrust", expected), "{error}");
    }
}

#[test]
fn faults_of_the_network_are_waited_out() {
    use io::ErrorKind as K;
    for (kind, expected) in [
        (K::ConnectionRefused, ("away", "refused")),
        (K::TimedOut, ("away", "timeout")),
        (K::HostUnreachable, ("away", "unreachable")),
        (K::BrokenPipe, ("cut", "cut")),
        (K::ConnectionReset, ("cut", "cut")),
        (K::UnexpectedEof, ("cut", "cut")),
        (K::Other, ("away", "no_connection")),
    ] {
        assert_eq!(code(&explain(&io::Error::from(kind))), expected, "{kind:?}");
        assert_eq!(code(&wrapped(io::Error::from(kind))), expected, "{kind:?}");
    }
    let busy = rustls::Error::AlertReceived(AlertDescription::InternalError);
    assert_eq!(code(&wrapped(busy)), ("cut", "cut"));
}

#[test]
fn a_clock_before_1970_gives_tls_no_time_rather_than_a_wrong_one() {
    use rustls::time_provider::TimeProvider;
    #[derive(Debug)]
    struct At(i64);
    impl Clock for At {
        fn tick(&self) -> chairside_drivers::kit::time::Tick {
            chairside_drivers::kit::time::Tick::ZERO
        }
        fn now(&self) -> (Timestamp, ClockTrust) {
            (Timestamp::from_micros(self.0), ClockTrust::Untrusted)
        }
    }
    assert!(HouseTime(Arc::new(At(-1))).current_time().is_none());
    assert_eq!(HouseTime(Arc::new(At(7_500_000))).current_time().unwrap().as_secs(), 7);
}
